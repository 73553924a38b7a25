//! Several directories as one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use mesh_model::Text;
use url::Url;

use crate::{Details, ListensFor, Record};

/// Several directories as one. Cheap to clone.
///
/// Where two have an application of one id, the one that was named first has its way.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    sources: Vec<Source>,
    /// Those that count, in the order of the sources.
    records: Vec<Arc<Record>>,
    /// Where in `records` an id is.
    by_id: BTreeMap<Text, usize>,
}

#[derive(Clone, Debug)]
struct Source {
    name: Text,
    records: Arc<[Arc<Record>]>,
}

/// A record that is left out, because there is one of its id already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// The id.
    pub app_id: Text,
    /// The source of the record that is left out.
    pub source: Text,
    /// The source of the record that counts.
    pub kept: Text,
}

impl Directory {
    /// Takes what a source has now, in place of what it had before.
    ///
    /// A source that was not known comes after the others. Returns the duplicates between this source
    /// and others, and within it.
    pub fn replace(&mut self, source: &str, records: Vec<Record>) -> Vec<Duplicate> {
        let records = records.into_iter().map(Arc::new).collect();
        match self.sources.iter_mut().find(|known| known.name == *source) {
            Some(known) => known.records = records,
            None => self.sources.push(Source { name: Text::from(source), records }),
        }
        self.records.clear();
        self.by_id.clear();
        let mut duplicates = Vec::new();
        let mut names = Vec::new();
        for Source { name, records } in &self.sources {
            for record in records.iter() {
                match self.by_id.entry(record.app_id.clone()) {
                    Entry::Vacant(entry) => {
                        entry.insert(self.records.len());
                        self.records.push(record.clone());
                        names.push(name);
                    }
                    Entry::Occupied(entry) => duplicates.push(Duplicate {
                        app_id: record.app_id.clone(),
                        source: name.clone(),
                        kept: names[*entry.get()].clone(),
                    }),
                }
            }
        }
        duplicates.retain(|duplicate| duplicate.source == *source || duplicate.kept == *source);
        duplicates
    }

    /// Returns all records, in the order of their sources.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Record>> {
        self.records.iter()
    }

    /// Returns the record of this id.
    ///
    /// If there is none of exactly this id, one side may lack its host: `pricer@desk.example` finds
    /// `pricer`, and `pricer` the first `pricer@…`. Two different hosts do not agree.
    #[must_use]
    pub fn find(&self, app_id: &str) -> Option<&Arc<Record>> {
        if let Some(at) = self.by_id.get(app_id.as_bytes()) {
            return self.records.get(*at);
        }
        let name = unqualified(app_id);
        if name == app_id {
            return self.records.iter().find(|record| unqualified(&record.app_id) == name);
        }
        self.records.get(*self.by_id.get(name.as_bytes())?)
    }

    /// Returns the web application that a page is.
    ///
    /// The page has the record's origin, and every part of the record's address occurs in the page's. Of
    /// several such records the one whose address has the most parts is meant.
    #[must_use]
    pub fn by_url(&self, identity_url: &str) -> Option<&Arc<Record>> {
        let page = Url::parse(identity_url).ok()?;
        let mut best = None;
        for record in &self.records {
            let Details::Web { url } = &record.details else { continue };
            let Some(fit) = url.fit(&page) else { continue };
            // Among equals the first, so that the order of the directory decides.
            if best.is_none_or(|(best, _)| fit > best) {
                best = Some((fit, record));
            }
        }
        best.map(|(_, record)| record)
    }

    /// Returns who says that it handles an intent, for a type of context, with a type of result; `None`
    /// stands for any. See [`ListensFor::is_for`].
    pub fn declares<'a>(
        &'a self,
        intent: Option<&'a str>,
        context_type: Option<&'a str>,
        result_type: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Arc<Record>, &'a ListensFor)> {
        let pairs = |record: &'a Arc<Record>| record.intents.iter().map(move |listens| (record, listens));
        self.records.iter().flat_map(pairs).filter(move |(_, listens)| {
            intent.is_none_or(|intent| listens.intent == *intent) && listens.is_for(context_type, result_type)
        })
    }
}

/// Returns an id without its host.
fn unqualified(app_id: &str) -> &str {
    match app_id.rsplit_once('@') {
        Some((name, host)) if !name.is_empty() && !host.is_empty() => name,
        _ => app_id,
    }
}

impl fmt::Display for Duplicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { app_id, source, kept } = self;
        if source == kept {
            return write!(f, "app `{app_id}` occurs twice in {source}; the first counts");
        }
        write!(f, "app `{app_id}` of {source} is left out: {kept} has one of that id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn records(text: &str) -> Vec<Record> {
        let parsed = parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.warnings, []);
        parsed.records
    }

    fn of_ids(ids: &[&str]) -> Vec<Record> {
        let records_text: Vec<_> =
            ids.iter().map(|id| format!(r#"{{"appId":"{id}","title":"{id}","type":"other"}}"#)).collect();
        records(&format!("[{}]", records_text.join(",")))
    }

    fn of_urls(urls: &[&str]) -> Directory {
        let records_text: Vec<_> = urls
            .iter()
            .map(|url| format!(r#"{{"appId":"{url}","title":"x","type":"web","details":{{"url":"{url}"}}}}"#))
            .collect();
        let mut directory = Directory::default();
        directory.replace("s", records(&format!("[{}]", records_text.join(","))));
        directory
    }

    fn ids(directory: &Directory) -> Vec<&str> {
        directory.iter().map(|record| &*record.app_id).collect()
    }

    #[test]
    fn ids_are_found_exactly_and_then_without_host() {
        let mut directory = Directory::default();
        directory.replace("s", of_ids(&["a@one", "a@two", "b", "c@one", "c", "d@x@one", "@", "@host"]));
        for (asked, found) in [
            ("a@one", Some("a@one")),
            ("a@two", Some("a@two")),
            ("a", Some("a@one")),
            ("a@three", None),
            ("b", Some("b")),
            ("b@anywhere", Some("b")),
            ("c", Some("c")),
            ("c@one", Some("c@one")),
            ("c@two", Some("c")),
            ("d@x", None),
            ("d@x@one", Some("d@x@one")),
            ("B", None),
            ("", None),
            ("b@", None),
            ("@host", Some("@host")),
            ("host", None),
        ] {
            assert_eq!(directory.find(asked).map(|record| &*record.app_id), found, "{asked}");
        }
    }

    #[test]
    fn the_most_specific_record_is_the_page() {
        let [app, query, fragment] =
            ["https://a.example/app", "https://a.example/app?x=1", "https://a.example/app?x=1#h"];
        let pages = [
            (app, Some(app)),
            (query, Some(query)),
            (fragment, Some(fragment)),
            ("https://a.example/app#h", Some(app)),
            ("https://a.example/app?x=2#h", Some(app)),
            ("https://a.example/app?y=3&x=1", Some(query)),
            ("https://a.example/app?x=1#other", Some(query)),
            ("https://a.example/app?y=3&x=1#h", Some(fragment)),
            ("https://a.example/", None),
            ("https://b.example/app?x=1#h", None),
            ("no address", None),
        ];
        // However the directory is sorted.
        for order in [[app, query, fragment], [fragment, query, app], [query, fragment, app]] {
            let directory = of_urls(&order);
            for (page, expected) in pages {
                assert_eq!(
                    directory.by_url(page).map(|record| &*record.app_id),
                    expected,
                    "{page} {order:?}"
                );
            }
        }
    }

    #[test]
    fn a_path_counts_more_than_a_query_and_the_first_of_equals_wins() {
        let directory =
            of_urls(&["https://a.example/?x=1", "https://a.example/app", "https://a.example/app/"]);
        let found = |page: &str| directory.by_url(page).map(|record| record.app_id.to_string());
        assert_eq!(found("https://a.example/app?x=1").as_deref(), Some("https://a.example/app"));
        assert_eq!(found("https://a.example/other?x=1").as_deref(), Some("https://a.example/?x=1"));
    }

    #[test]
    fn only_web_apps_are_pages() {
        let mut directory = Directory::default();
        directory.replace(
            "s",
            records(
                r#"[{"appId":"a","title":"a","type":"onlineNative","details":{"url":"https://a.example/"}},
                    {"appId":"b","title":"b","type":"web","details":{"url":"https://a.example/"}}]"#,
            ),
        );
        assert_eq!(directory.by_url("https://a.example/x").unwrap().app_id, "b");
    }

    #[test]
    fn the_first_source_wins() {
        let duplicate = |app_id: &str, source: &str, kept: &str| Duplicate {
            app_id: app_id.into(),
            source: source.into(),
            kept: kept.into(),
        };
        let mut directory = Directory::default();
        assert_eq!(directory.replace("one", of_ids(&["a", "b"])), []);
        assert_eq!(directory.replace("two", of_ids(&["c", "b"])), [duplicate("b", "two", "one")]);
        assert_eq!(ids(&directory), ["a", "b", "c"]);
        // What a first source drops, a later one may still have.
        let before = directory.clone();
        assert_eq!(directory.replace("one", of_ids(&["a", "a"])), [duplicate("a", "one", "one")]);
        assert_eq!(ids(&directory), ["a", "c", "b"]);
        assert_eq!(ids(&before), ["a", "b", "c"]);
        // It stays the first, and takes over what it names anew.
        assert_eq!(directory.replace("one", of_ids(&["c"])), [duplicate("c", "two", "one")]);
        assert_eq!(ids(&directory), ["c", "b"]);
        assert_eq!(directory.replace("three", of_ids(&["d"])), []);
        directory.replace("two", Vec::new());
        assert_eq!(ids(&directory), ["c", "d"]);
        assert_eq!(
            [duplicate("b", "two", "one"), duplicate("a", "one", "one")].map(|d| d.to_string()),
            [
                "app `b` of two is left out: one has one of that id",
                "app `a` occurs twice in one; the first counts"
            ]
        );
    }

    #[test]
    fn says_who_handles_an_intent() {
        let mut directory = Directory::default();
        directory.replace(
            "s",
            records(
                r#"[{"appId":"a","title":"a","type":"other","interop":{"intents":{"listensFor":{
                      "View":{"contexts":["x","y"],"displayName":"View it"},
                      "Get":{"contexts":["x"],"resultType":"channel<q>"}}}}},
                    {"appId":"b","title":"b","type":"other","interop":{"intents":{"listensFor":{
                      "View":{"contexts":["y"]},"Ping":{}}}}}]"#,
            ),
        );
        let who = |intent, context_type, result_type| {
            let pairs = directory.declares(intent, context_type, result_type);
            pairs
                .map(|(record, listens)| format!("{}:{}", record.app_id, listens.intent))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(who(Some("View"), None, None), "a:View b:View");
        assert_eq!(who(Some("View"), Some("x"), None), "a:View");
        assert_eq!(who(None, Some("y"), None), "a:View b:View");
        assert_eq!(who(None, Some("x"), Some("channel")), "a:Get");
        assert_eq!(who(Some("Ping"), None, None), "b:Ping");
        assert_eq!(who(Some("Ping"), Some("x"), None), "");
        assert_eq!(who(Some("view"), None, None), "");
        assert_eq!(who(None, None, None), "a:View a:Get b:View b:Ping");
    }
}
