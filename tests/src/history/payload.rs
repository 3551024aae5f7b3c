//! Record values that carry their identity: `crc.client.counter.key.filler`, as readable text that fits every
//! request format.

use super::record::{RecordId, Seen};

/// The value of a record. `key` must not contain a dot; `filler_bytes` makes it larger.
#[must_use]
pub fn payload(id: RecordId, key: Option<&str>, filler_bytes: usize) -> String {
    let filler: String =
        ('a'..='z').cycle().skip(usize::try_from(id.counter % 26).unwrap_or(0)).take(filler_bytes).collect();
    let text = format!("{}.{}.{}.{filler}", id.client, id.counter, key.unwrap_or("-"));
    format!("{:08x}.{text}", crc32c::crc32c(text.as_bytes()))
}

/// Identity in a value; foreign if any bit of it was changed, or if the record has another key.
#[must_use]
pub fn identify(key: Option<&[u8]>, value: &[u8]) -> Seen {
    parse(key, value).map_or_else(|| Seen::Foreign(u64::from(crc32c::crc32c(value))), Seen::Record)
}

fn parse(key: Option<&[u8]>, value: &[u8]) -> Option<RecordId> {
    let (crc, text) = std::str::from_utf8(value).ok()?.split_once('.')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(text.as_bytes()) {
        return None;
    }
    let mut fields = text.splitn(4, '.');
    let id = RecordId { client: fields.next()?.parse().ok()?, counter: fields.next()?.parse().ok()? };
    (fields.next()?.as_bytes() == key.unwrap_or(b"-")).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_by_its_bytes_and_key() {
        let id = RecordId { client: 3, counter: 41 };
        let value = payload(id, Some("k1"), 100);
        assert_eq!(identify(Some(b"k1"), value.as_bytes()), Seen::Record(id));
        assert!(matches!(identify(Some(b"k2"), value.as_bytes()), Seen::Foreign(_)));
        assert!(matches!(identify(None, value.as_bytes()), Seen::Foreign(_)));
        for position in 0..value.len() {
            let mut bad = value.clone().into_bytes();
            bad[position] ^= 1;
            assert!(matches!(identify(Some(b"k1"), &bad), Seen::Foreign(_)), "position {position}");
        }
        assert_eq!(identify(None, payload(id, None, 0).as_bytes()), Seen::Record(id));
    }
}
