use super::*;

#[test]
fn durations() {
    for (text, ms) in [
        ("1500", 1_500),
        ("250ms", 250),
        ("90s", 90_000),
        ("12h", 43_200_000),
        ("7d", 604_800_000),
        ("2 w", 1_209_600_000),
    ] {
        assert_eq!(parse_ms(text), Ok(ms), "{text}");
    }
    for text in ["", "d", "7x", "-1", "1.5h", "99999999999999999999", "999999999999999999d"] {
        assert!(parse_ms(text).is_err(), "{text}");
    }
    for (ms, text) in
        [(0, "0ms"), (1_500, "1500ms"), (90_000, "90s"), (604_800_000, "7d"), (43_200_000, "12h")]
    {
        assert_eq!(duration_ms(ms), text);
        assert_eq!(parse_ms(text), Ok(ms));
    }
}

#[test]
fn sizes_and_limits() {
    assert_eq!(parse_bytes("1048576"), Ok(1 << 20));
    assert_eq!(parse_bytes("10GiB"), Ok(10 << 30));
    assert_eq!(parse_bytes("3 MB"), Ok(3_000_000));
    assert!(parse_bytes("3 mb").is_err());
    assert_eq!(parse_bytes_limit("none"), Ok(Limit::None));
    assert_eq!(parse_ms_limit("1s"), Ok(Limit::At(1_000)));
    assert_eq!(bytes(1_023), "1023 B");
    assert_eq!(bytes(1_536), "1.5 KiB");
    assert_eq!(bytes(5 << 40), "5.0 TiB");
}

#[test]
fn figures() {
    assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    assert_eq!(mib_per_second(3 << 20, Duration::from_secs(2)), "1.5 MiB/s");
    assert_eq!(per_second(10, Duration::ZERO), 10_000_000_000);
}

#[test]
fn instants() {
    assert_eq!(instant_ms(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(instant_ms(951_827_696_789), "2000-02-29T12:34:56.789Z");
    assert_eq!(instant_ms(1_760_000_000_000), "2025-10-09T08:53:20.000Z");
    assert_eq!(instant_ms(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
    assert_eq!(instant_ms(-1), "1969-12-31T23:59:59.999Z");
}

#[test]
fn text_for_terminals() {
    assert_eq!(one_line("abc", 3), "abc");
    assert_eq!(one_line("abcd", 3), "ab…");
    assert_eq!(one_line("a\x1b[1m\n", 9), "a [1m ");
}

#[test]
fn tables_align() {
    let rows = vec![vec!["orders".to_owned(), "8".to_owned()], vec!["a".to_owned(), "1,000".to_owned()]];
    assert_eq!(table(&["TOPIC", "N"], &rows), "TOPIC       N\norders      8\na       1,000\n");
}

#[test]
fn ages_have_two_units() {
    let ages =
        [0, 999, 1_000, 59_999, 60_000, 200_000, 3_600_000 + 59_000, 2 * 86_400_000 + 5 * 3_600_000 + 7];
    let told: Vec<String> = ages.into_iter().map(age_ms).collect();
    assert_eq!(told, ["0ms", "999ms", "1s", "59s", "1m", "3m 20s", "1h", "2d 5h"]);
}
