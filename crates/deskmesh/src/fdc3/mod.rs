//! FDC3 applications: their connections, the pages that browsers need, which apps there are, and how they
//! are started. What FDC3 means is the business of [`fdc3_agent`].

pub(crate) mod bridge;
pub(crate) mod directory;
pub(crate) mod endpoint;
pub(crate) mod launch;
pub(crate) mod launcher;
pub(crate) mod pages;
pub(crate) mod service;
