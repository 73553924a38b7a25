//! The words by which FDC3 names what went wrong.

/// A value of one of the error enumerations of FDC3 2.2, or of one that 3.0 adds. An app compares the
/// bare word, so nothing is ever added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "named and explained by the FDC3 API: ChannelError, OpenError, ResolveError, ResultError"
)]
pub enum Fault {
    AccessDenied,
    CreationFailed,
    MalformedContext,
    NoChannelFound,
    ApiTimeout,
    AppNotFound,
    AppTimeout,
    DesktopAgentNotFound,
    ErrorOnLaunch,
    IntentDeliveryFailed,
    NoAppsFound,
    TargetAppUnavailable,
    TargetInstanceUnavailable,
    IntentHandlerRejected,
    NoResultReturned,
    IntentListenerConflict,
    InvalidArguments,
    ErrorOnClose,
}

const ALL: [Fault; 18] = [
    Fault::AccessDenied,
    Fault::CreationFailed,
    Fault::MalformedContext,
    Fault::NoChannelFound,
    Fault::ApiTimeout,
    Fault::AppNotFound,
    Fault::AppTimeout,
    Fault::DesktopAgentNotFound,
    Fault::ErrorOnLaunch,
    Fault::IntentDeliveryFailed,
    Fault::NoAppsFound,
    Fault::TargetAppUnavailable,
    Fault::TargetInstanceUnavailable,
    Fault::IntentHandlerRejected,
    Fault::NoResultReturned,
    Fault::IntentListenerConflict,
    Fault::InvalidArguments,
    Fault::ErrorOnClose,
];

impl Fault {
    /// Returns the word that goes into `payload.error`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDenied",
            Self::CreationFailed => "CreationFailed",
            Self::MalformedContext => "MalformedContext",
            Self::NoChannelFound => "NoChannelFound",
            Self::ApiTimeout => "ApiTimeout",
            Self::AppNotFound => "AppNotFound",
            Self::AppTimeout => "AppTimeout",
            Self::DesktopAgentNotFound => "DesktopAgentNotFound",
            Self::ErrorOnLaunch => "ErrorOnLaunch",
            Self::IntentDeliveryFailed => "IntentDeliveryFailed",
            Self::NoAppsFound => "NoAppsFound",
            Self::TargetAppUnavailable => "TargetAppUnavailable",
            Self::TargetInstanceUnavailable => "TargetInstanceUnavailable",
            Self::IntentHandlerRejected => "IntentHandlerRejected",
            Self::NoResultReturned => "NoResultReturned",
            Self::IntentListenerConflict => "IntentListenerConflict",
            Self::InvalidArguments => "InvalidArguments",
            Self::ErrorOnClose => "ErrorOnClose",
        }
    }

    /// Returns the fault of a word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        ALL.into_iter().find(|fault| fault.word() == word)
    }
}
