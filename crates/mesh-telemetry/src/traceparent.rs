//! The W3C `traceparent` header: which trace a message belongs to, in 55 bytes.
//!
//! ```text
//! 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//! ── ──────────────────────────────── ──────────────── ──
//! version  trace id (16 bytes)        parent id (8)    flags, bit 0 = sampled
//! ```
//!
//! Reading is strict, as <https://www.w3.org/TR/trace-context/#traceparent-header> asks: lower-case
//! digits only, no zero id, version `ff` refused. A version this code does not know is read as far as
//! the 55 bytes go, and a longer value is refused. Nothing is allocated.

/// The length of a `traceparent`.
pub const LEN: usize = 55;

/// The flag that says the caller keeps this trace.
pub const SAMPLED: u8 = 0x01;

/// Where a message stands in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceParent {
    /// The trace; never zero.
    pub trace_id: u128,
    /// The span that sent the message; never zero.
    pub span_id: u64,
    /// The flags as received; [`SAMPLED`] is the only one read here.
    pub flags: u8,
}

impl TraceParent {
    /// Returns whether the sender keeps this trace.
    #[must_use]
    pub const fn sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Reads a `traceparent`, or returns `None` if it breaks a rule of the standard.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<TraceParent> {
    let bytes: &[u8; LEN] = bytes.try_into().ok()?;
    if bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
        return None;
    }
    let version = hex(&bytes[0..2])?;
    let trace_id = hex(&bytes[3..35])?;
    let span_id = hex(&bytes[36..52])?;
    let flags = hex(&bytes[53..55])?;
    if version == 0xff || trace_id == 0 || span_id == 0 {
        return None;
    }
    // Sixteen and two digits fit their types.
    Some(TraceParent { trace_id, span_id: span_id as u64, flags: flags as u8 })
}

/// Writes a `traceparent` of version 00. The bytes are ASCII.
#[must_use]
pub fn format(parent: &TraceParent) -> [u8; LEN] {
    let mut bytes = [b'-'; LEN];
    write_hex(&mut bytes[0..2], 0);
    write_hex(&mut bytes[3..35], parent.trace_id);
    write_hex(&mut bytes[36..52], u128::from(parent.span_id));
    write_hex(&mut bytes[53..55], u128::from(parent.flags));
    bytes
}

fn hex(digits: &[u8]) -> Option<u128> {
    let mut value = 0;
    for digit in digits {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u128::from(digit);
    }
    Some(value)
}

fn write_hex(digits: &mut [u8], mut value: u128) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 0xf) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn check(text: &str, expected: Option<TraceParent>) {
        assert_eq!(parse(text.as_bytes()), expected, "{text}");
    }

    #[test]
    fn reads_what_the_standard_allows() {
        let parent = TraceParent {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            flags: 1,
        };
        check(GOOD, Some(parent));
        check(&GOOD.replace("-01", "-00"), Some(TraceParent { flags: 0, ..parent }));
        check(&GOOD.replace("-01", "-03"), Some(TraceParent { flags: 3, ..parent }));
        check(&GOOD.replacen("00", "cc", 1), Some(parent));
        assert!(parent.sampled());
        assert!(!TraceParent { flags: 2, ..parent }.sampled());
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}-00"),
            &format!(" {}", &GOOD[..54]),
            &GOOD.to_uppercase(),
            &GOOD.replacen("0af7", "0AF7", 1),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0x", 1),
            &GOOD.replacen("0af7", "0ag7", 1),
            &GOOD.replace('-', "_"),
            &GOOD.replace("-01", "-0 "),
            &GOOD.replace("-01", "+01"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
        ] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn writes_what_it_reads(trace_id in 1..=u128::MAX, span_id in 1..=u64::MAX, flags: u8) {
            let parent = TraceParent { trace_id, span_id, flags };
            prop_assert_eq!(parse(&format(&parent)), Some(parent));
        }

        #[test]
        fn survives_any_bytes(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn survives_a_changed_byte(at in 0..LEN, byte: u8) {
            let mut bytes: [u8; LEN] = GOOD.as_bytes().try_into().unwrap();
            bytes[at] = byte;
            if let Some(parent) = parse(&bytes) {
                prop_assert_eq!(&format(&parent)[2..], &bytes[2..]);
            }
        }
    }
}
