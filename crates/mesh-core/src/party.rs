//! Who sees whom: the one rule for methods, streams and the bus.
//!
//! Two peers see each other when they have the same user, or one of them is a service, and each fulfils
//! the restriction that the other joined with.

use mesh_model::Json;

use crate::key::UserKey;
use crate::restriction::Restriction;

/// What decides whether a peer is seen, as it joined an area.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party<'a> {
    pub(crate) user: &'a UserKey,
    /// Whether it serves all users.
    pub(crate) service: bool,
    pub(crate) identity: &'a Json,
    pub(crate) restriction: Option<&'a Restriction>,
}

impl Party<'_> {
    /// Returns whether two peers see each other.
    pub(crate) fn sees(self, other: Party<'_>) -> bool {
        let accepts = |own: Party<'_>, other: Party<'_>| {
            own.restriction.is_none_or(|wanted| wanted.holds(own.identity, other.identity))
        };
        (self.service || other.service || self.user == other.user)
            && accepts(self, other)
            && accepts(other, self)
    }
}
