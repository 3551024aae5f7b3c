use std::convert::Infallible;

use proptest::prelude::*;

use super::super::testing;
use super::*;

fn rendered(line: &str, format: OutputFormat) -> String {
    let mut out = Vec::new();
    Record::parse(line.as_bytes())
        .expect("a record")
        .render(line.as_bytes(), format, &mut out)
        .expect("rendered");
    String::from_utf8(out).expect("text")
}

#[test]
fn values_come_out_as_they_went_in() {
    for value in [
        r#"{"n":1}"#,
        "  { \"n\" :\t1.50 , \"n\":2e0 }  ",
        "null",
        " null ",
        r#""é\u00e9\ud800\/""#,
        "1e999",
        "-0",
        "123456789012345678901234567890.10",
        "[ ]\r",
        r#""\",\"headers\":{}}""#,
    ] {
        let line = testing::line(0, 7, &format!(",\"value\":{value}"));
        assert_eq!(rendered(&line, OutputFormat::Ndjson), format!("{value}\n"));
        assert_eq!(rendered(&line, OutputFormat::Json), format!("{line}\n"));
    }
}

#[test]
fn text_base64_and_null_values() {
    let text = testing::line(0, 7, r#","text":"not \"JSON\"\t\u00e9 ""#);
    assert_eq!(rendered(&text, OutputFormat::Ndjson), "not \"JSON\"\té \n");
    assert_eq!(rendered(&testing::line(0, 7, ""), OutputFormat::Ndjson), "\n");
    let line = testing::line(0, 7, r#","base64":"/wD+""#);
    let mut out = Vec::new();
    Record::parse(line.as_bytes())
        .expect("a record")
        .render(line.as_bytes(), OutputFormat::Ndjson, &mut out)
        .expect("rendered");
    assert_eq!(out, b"\xff\x00\xfe\n");
}

#[test]
fn a_value_may_be_the_lines_last_member() {
    assert_eq!(rendered("{\"offset\":1,\"value\": 5 }", OutputFormat::Ndjson), " 5 \n");
}

#[test]
fn rows_line_up_with_their_heading() {
    let line = testing::line(3, 812, r#","value":{"n":"a\nb"}"#);
    assert_eq!(
        heading() + &rendered(&line, OutputFormat::Table),
        "PARTITION        OFFSET  TIMESTAMP                 KEY                   VALUE\n\
         \u{20}       3           812  2025-10-09T08:53:20.000Z  k812                  {\"n\":\"a\\nb\"}\n"
    );
    let bare = r#"{"partition":0,"offset":1,"timestamp":0,"key_base64":"/w=="}"#;
    assert!(rendered(bare, OutputFormat::Table).ends_with("base64:/w==           -\n"));
}

#[test]
fn what_is_no_record_is_an_error() {
    for line in ["", "{", "[]", r#"{"value":1}"#] {
        assert!(Record::parse(line.as_bytes()).is_err(), "{line}");
    }
    let line = br#"{"offset":1,"base64":"?"}"#;
    assert!(
        Record::parse(line).expect("a record").render(line, OutputFormat::Ndjson, &mut Vec::new()).is_err()
    );
}

proptest! {
    #[test]
    fn lines_do_not_depend_on_chunks(text in "[ab\n]{0,40}", size in 1_usize..7) {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in text.as_bytes().chunks(size) {
            let _infallible = lines.push(chunk, |line| {
                seen.push(line.to_vec());
                Ok::<_, Infallible>(())
            });
        }
        seen.push(lines.rest().to_vec());
        let expected: Vec<Vec<u8>> = text.split('\n').map(|line| line.as_bytes().to_vec()).collect();
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn white_space_around_a_value_survives(
        text in "[ \t]{0,3}(\\{ {0,2}\"a\"\t{0,2}: {0,2}[1-9][0-9]{0,30} {0,2}\\}\
                 |\"[a-z]{0,5}\"|null)[ \t]{0,3}",
    ) {
        let line = testing::line(1, 2, &format!(",\"value\":{text}"));
        prop_assert_eq!(rendered(&line, OutputFormat::Ndjson), format!("{text}\n"));
    }
}
