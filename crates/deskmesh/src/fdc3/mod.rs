//! FDC3 applications: which there are, and how they are started.

#[cfg_attr(not(test), expect(dead_code, reason = "the desktop agent that asks for apps comes next"))]
pub(crate) mod directory;
#[cfg_attr(not(test), expect(dead_code, reason = "the desktop agent that starts apps comes next"))]
pub(crate) mod launch;
