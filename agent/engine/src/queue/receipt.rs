//! Receipts: tokens by which clients settle leased records.
//!
//! A receipt is `mp1.` followed by the base64url encoding of lease id (16 bytes), partition (8), offset (8)
//! and attempt (4), big endian. Nothing is signed: the lease id is random and cannot be guessed. The attempt
//! distinguishes several deliveries of a record under the same lease id.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use millpond_core::queue::Ack;
use millpond_core::{LeaseId, Offset, PartitionId};
use uuid::Uuid;

const PREFIX: &str = "mp1.";
/// Length of the encoded fields.
const BYTES: usize = 36;
/// Length of the text.
pub const LENGTH: usize = PREFIX.len() + BYTES / 3 * 4;

/// The claim on one leased record. Ordered by lease, partition, attempt, offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt {
    pub lease: LeaseId,
    pub partition: PartitionId,
    pub attempt: i32,
    pub offset: Offset,
}

impl Receipt {
    /// Appends the text to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(self.lease.0.as_bytes());
        bytes[16..24].copy_from_slice(&self.partition.0.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.offset.0.to_be_bytes());
        bytes[32..].copy_from_slice(&self.attempt.to_be_bytes());
        out.extend_from_slice(PREFIX.as_bytes());
        let start = out.len();
        out.resize(start + LENGTH - PREFIX.len(), 0);
        BASE64.encode_slice(bytes, &mut out[start..]).unwrap_or_default();
    }

    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Vec::with_capacity(LENGTH);
        self.write(&mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    /// Parses the text; `None` if it is not a receipt.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; BYTES];
        let body = text.strip_prefix(PREFIX).filter(|b| b.len() == LENGTH - PREFIX.len())?;
        BASE64.decode_slice(body, &mut bytes).ok().filter(|n| *n == BYTES)?;
        let part = |at: usize| -> [u8; 8] { std::array::from_fn(|n| bytes[at + n]) };
        Some(Self {
            lease: LeaseId(Uuid::from_bytes(std::array::from_fn(|n| bytes[n]))),
            partition: PartitionId(i64::from_be_bytes(part(16))),
            offset: Offset(i64::from_be_bytes(part(24))),
            attempt: i32::from_be_bytes(std::array::from_fn(|n| bytes[32 + n])),
        })
    }

    /// The ack of this record within a commit.
    #[must_use]
    pub fn ack(&self) -> Ack {
        Ack { lease: self.lease, partition: self.partition, offset: self.offset, attempt: self.attempt }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_receipt_is_read_back(lease: u128, partition: i64, offset: i64, attempt: i32) {
            let (lease, partition) = (LeaseId(Uuid::from_u128(lease)), PartitionId(partition));
            let receipt = Receipt { lease, partition, offset: Offset(offset), attempt };
            prop_assert_eq!(receipt.text().len(), LENGTH);
            prop_assert_eq!(Receipt::parse(&receipt.text()), Some(receipt));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            prop_assert!(Receipt::parse(&text).is_none_or(|r| r.text() == text));
            let text = format!("mp1.{text}");
            prop_assert!(Receipt::parse(&text).is_none_or(|r| r.text() == text));
        }
    }

    #[test]
    fn what_is_not_a_receipt_is_none() {
        let text = Receipt {
            lease: LeaseId(Uuid::from_u128(7)),
            partition: PartitionId(1),
            offset: Offset(2),
            attempt: 1,
        }
        .text();
        for wrong in [
            "",
            "mp1.",
            &text[1..],
            &text[..text.len() - 1],
            &text.replace("mp1", "mp2"),
            &format!("{text}A"),
            &text.replacen('A', "*", 1),
        ] {
            assert_eq!(Receipt::parse(wrong), None, "{wrong}");
        }
    }
}
