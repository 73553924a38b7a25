//! FDC3 app directories (AppD version 2): records, and which of them an id, a URL or an intent means.
//!
//! [`parse`] reads one directory, from a file or a server; [`Directory`] joins several and looks up.
//! Directories are written by hand and by many programs, so one bad record costs that record alone:
//! it is left out with a [`Warning`] that names it. A record keeps the text it was read from, and its
//! [`metadata`](Record::metadata) is cut from that text, because FDC3 gives it to applications as it is.

mod address;
mod arguments;
mod directory;
mod parse;
mod record;

pub use address::AppUrl;
pub use directory::{Directory, Duplicate};
pub use parse::{DirectoryError, Parsed, Warning, parse};
pub use record::{AppType, Details, ListensFor, Record};
