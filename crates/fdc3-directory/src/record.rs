//! One application of a directory.

use mesh_model::{Json, Text};

use crate::AppUrl;

/// One application of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id, `name` or fully qualified `name@host`.
    pub app_id: Text,
    /// What people call it: its `title`, else its `name`, else its id.
    pub title: Text,
    /// What kind of application it is.
    pub app_type: AppType,
    /// How it is started.
    pub details: Details,
    /// The intents that it says it handles, in the record's order.
    pub intents: Vec<ListensFor>,
    /// FDC3's `AppMetadata` of it: an object with `appId` and what the record has of `name`, `version`,
    /// `title`, `tooltip`, `description`, `icons` and `screenshots`.
    pub metadata: Json,
    /// The whole record as it was read.
    pub raw: Json,
}

/// The `type` of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppType {
    /// A web page.
    Web,
    /// A program of this machine.
    Native,
    /// A program that Citrix serves.
    Citrix,
    /// A program that is installed or started by way of a URL.
    OnlineNative,
    /// Anything else, and any type that is not known here.
    Other,
}

/// How an application is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Details {
    /// By opening a page.
    Web {
        /// Where the page is.
        url: AppUrl,
    },
    /// By running a program.
    Native {
        /// The program.
        path: Text,
        /// Its arguments, one by one.
        arguments: Vec<Text>,
    },
    /// In a way that is not known here. The application is listed, and can connect by itself.
    Other,
}

/// An intent that an application says it handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListensFor {
    /// The name of the intent.
    pub intent: Text,
    /// What people call it.
    pub display_name: Option<Text>,
    /// The types of contexts it is handled for. None of them: it is handled for no context type.
    pub contexts: Vec<Text>,
    /// The type of its result: a context type, `channel`, or `channel<…>`.
    pub result_type: Option<Text>,
}

impl Record {
    /// Returns what the application is good for, in a sentence or two.
    #[must_use]
    pub fn description(&self) -> Option<Text> {
        self.metadata.member("description")?.as_text()
    }

    /// Returns the address of its first icon.
    #[must_use]
    pub fn icon(&self) -> Option<Text> {
        self.metadata.member("icons")?.elements()?.first()?.member("src")?.as_text()
    }
}

impl ListensFor {
    /// Returns whether the intent is handled for this type of context, with this type of result.
    ///
    /// Who asks for `channel` is content with a channel of any type.
    #[must_use]
    pub fn is_for(&self, context_type: Option<&str>, result_type: Option<&str>) -> bool {
        let result_fits = |asked: &str| {
            self.result_type.as_deref().is_some_and(|declared| {
                declared == asked || (asked == "channel" && declared.starts_with("channel<"))
            })
        };
        context_type.is_none_or(|asked| self.contexts.iter().any(|context| *context == *asked))
            && result_type.is_none_or(result_fits)
    }
}

impl AppType {
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "web" => Self::Web,
            "native" => Self::Native,
            "citrix" => Self::Citrix,
            "onlineNative" => Self::OnlineNative,
            "other" => Self::Other,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_fits_by_context_and_result() {
        let listens = |contexts: &[&str], result_type: Option<&str>| ListensFor {
            intent: "I".into(),
            display_name: None,
            contexts: contexts.iter().map(|context| Text::from(*context)).collect(),
            result_type: result_type.map(Text::from),
        };
        for (contexts, declared, context_type, result_type, fits) in [
            (&["a", "b"][..], None, Some("b"), None, true),
            (&["a"], None, Some("b"), None, false),
            (&[], None, Some("a"), None, false),
            (&[], None, None, None, true),
            (&["a"], Some("r"), Some("a"), Some("r"), true),
            (&["a"], Some("r"), Some("a"), Some("s"), false),
            (&["a"], None, Some("a"), Some("r"), false),
            (&["a"], Some("r"), Some("b"), Some("r"), false),
            (&["a"], Some("channel"), None, Some("channel"), true),
            (&["a"], Some("channel<r>"), None, Some("channel"), true),
            (&["a"], Some("channel<r>"), None, Some("channel<r>"), true),
            (&["a"], Some("channel<r>"), None, Some("channel<s>"), false),
            (&["a"], Some("channel"), None, Some("channel<r>"), false),
            (&["a"], Some("channels"), None, Some("channel"), false),
        ] {
            let listens = listens(contexts, declared);
            assert_eq!(
                listens.is_for(context_type, result_type),
                fits,
                "{listens:?} {context_type:?} {result_type:?}"
            );
        }
    }
}
