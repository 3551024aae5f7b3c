//! Reads request bodies, with bounds on their size, on the memory they take, and on the time between frames.

use crate::AppState;
use crate::error::{Code, Problem};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use millpond_core::limits;
use millpond_core::saturated;
use millpond_engine::admission::Admission;
use millpond_engine::produce::AppendError;
use millpond_engine::produce::stream::Frames;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Longest wait for the next frame of a body; after it the request is refused.
const FRAME_WAIT_MAX: Duration = Duration::from_secs(60);
/// Memory is reserved in steps of this size for a body that came without `Content-Length`.
const ADMISSION_STEP_BYTES: usize = 16 * limits::KIB;

/// A request body as the source of frames of a streamed produce.
pub struct BodyFrames(pub Body);

impl Frames for BodyFrames {
    type Refusal = Problem;

    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        next_frame(&mut self.0).await
    }
}

/// The next data frame of a body that is not empty, or `None` at the end of the body.
async fn next_frame(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        match tokio::time::timeout(FRAME_WAIT_MAX, body.frame()).await {
            Err(_) => return Err(Problem::bad_request("no more of the body arrived in time")),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                return Err(Problem::bad_request(format!("the body cannot be read: {error}")));
            }
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Reads a whole body of at most `max` bytes, and returns it with the reservation of its memory. Fails with
/// `body_too_large`, `throttled` (no memory left) or `bad_request`.
pub async fn admitted(
    mut body: Body,
    max: usize,
    admission: &Admission,
) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
    let too_large =
        || Problem::new(Code::BodyTooLarge, format!("the body of this request has at most {max} bytes"));
    let known = body.size_hint().exact().map(saturated::<usize, _>);
    if known.is_some_and(|n| n > max) {
        return Err(too_large());
    }
    let admit = |bytes: usize| -> Result<OwnedSemaphorePermit, Problem> {
        admission.request(bytes).ok_or_else(|| AppendError::Throttled.into())
    };
    let mut permit = admit(known.unwrap_or(ADMISSION_STEP_BYTES))?;
    let mut admitted = known.unwrap_or(ADMISSION_STEP_BYTES);
    let mut whole: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    while let Some(data) = next_frame(&mut body).await? {
        let so_far = joined.len() + whole.as_ref().map_or(0, Bytes::len) + data.len();
        if so_far > max {
            return Err(too_large());
        }
        if so_far > admitted {
            permit.merge(admit(so_far + ADMISSION_STEP_BYTES - admitted)?);
            admitted = so_far + ADMISSION_STEP_BYTES;
        }
        match whole.take() {
            None if joined.is_empty() => whole = Some(data),
            first => {
                joined.extend_from_slice(&first.unwrap_or_default());
                joined.extend_from_slice(&data);
            }
        }
    }
    Ok((whole.unwrap_or_else(|| joined.freeze()), permit))
}

/// The body of an answer, which keeps its share of a request's memory until the client has taken it.
pub fn holding(bytes: Vec<u8>, mut permit: OwnedSemaphorePermit) -> Body {
    struct Held(Vec<u8>, #[expect(dead_code, reason = "held as long as the bytes")] OwnedSemaphorePermit);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let kib = bytes.capacity().div_ceil(limits::KIB).min(permit.num_permits());
    match permit.split(kib) {
        Some(share) => Body::from(Bytes::from_owner(Held(bytes, share))),
        None => Body::from(bytes),
    }
}

/// Parses a JSON body of at most 1 MiB. A body of white space only is read as `{}`.
pub async fn json_body<T: DeserializeOwned>(app: &AppState, body: Body) -> Result<T, Problem> {
    let (body, _permit) = admitted(body, limits::MIB, &app.engine.admission).await?;
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { &body[..] };
    serde_json::from_slice(body).map_err(|e| Problem::bad_request(e.to_string()))
}
