//! Ids that nobody can guess.

use mesh_model::Text;

/// Makes UUIDs from a secret.
#[derive(Debug)]
pub(crate) struct Ids {
    secret: [u8; 32],
    instances: [u8; 32],
    next: u64,
}

impl Ids {
    /// `secret` is new with each start, `instances` is not. What proves an instance of one user proves
    /// nothing to the agent of another.
    pub(crate) fn new(secret: [u8; 32], instances: &[u8; 32], user: &str) -> Self {
        let instances = *blake3::keyed_hash(instances, user.as_bytes()).as_bytes();
        Self { secret, instances, next: 0 }
    }

    /// Returns what proves that an app is this instance, also to a later life of the node.
    pub(crate) fn proof(&self, app_id: &str, instance: &str) -> Text {
        let hash = blake3::keyed_hash(&self.instances, format!("{app_id}\0{instance}").as_bytes());
        uuid_of(hash)
    }

    /// Returns the next one, in the form of a random UUID (version 4).
    pub(crate) fn uuid(&mut self) -> Text {
        self.next += 1;
        let hash = blake3::keyed_hash(&self.secret, &self.next.to_le_bytes());
        uuid_of(hash)
    }
}

fn uuid_of(hash: blake3::Hash) -> Text {
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    let number = u128::from_be_bytes(bytes);
    let number = number & !(0xf << 76) | 4 << 76;
    let number = number & !(0b11 << 62) | 0b10 << 62;
    let hex = format!("{number:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]).into()
}
