use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;

use super::*;

fn gz(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect()
}

async fn read(stored: &[u8]) -> (Result<Vec<u8>, ()>, Arc<Progress>) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(stored).expect("room");
    let input = Input::find(Some(file.path())).expect("a file");
    assert!(input.is_repeatable());
    let (body, progress) = input.open().expect("readable");
    (body.collect().await.map(|body| body.to_bytes().to_vec()).map_err(|_| ()), progress)
}

#[tokio::test]
async fn plain_gzip_and_zstandard_come_out_the_same() {
    let text = lines(200_000);
    let (first, second) = text.split_at(1_000_000);
    let members = [gz(first), gz(second)].concat();
    let frames =
        [zstd::encode_all(first, 1).expect("memory"), zstd::encode_all(second, 1).expect("memory")].concat();
    for stored in [text.clone(), members, frames] {
        let (body, progress) = read(&stored).await;
        assert!(body == Ok(text.clone()));
        assert_eq!(progress.taken_lines(), 200_000);
        assert_eq!(progress.taken_bytes(), to_u64(text.len()));
        assert_eq!(progress.read_bytes(), to_u64(stored.len()));
    }
}

#[tokio::test]
async fn short_and_empty_files_are_read() {
    for text in ["", "1", "1\n2"] {
        let (body, _) = read(text.as_bytes()).await;
        assert_eq!(body, Ok(text.as_bytes().to_vec()));
    }
}

#[tokio::test]
async fn a_damaged_file_fails_and_says_why_once() {
    let mut stored = gz(&lines(100_000));
    stored.truncate(stored.len() / 2);
    let (body, progress) = read(&stored).await;
    assert_eq!(body, Err(()));
    assert_eq!(progress.take_failure().map(|error| error.kind()), Some(ErrorKind::UnexpectedEof));
    assert!(progress.take_failure().is_none());
}

#[test]
fn standard_input_is_read_once_and_a_missing_file_not_at_all() {
    for path in [None, Some(Path::new("-"))] {
        let input = Input::find(path).expect("no file");
        assert!(!input.is_repeatable());
        assert_eq!(input.name(), "standard input");
    }
    let error = Input::find(Some(Path::new("/nowhere/x.ndjson"))).err().expect("no such file");
    assert_eq!(error.to_string(), "cannot read /nowhere/x.ndjson");
}
