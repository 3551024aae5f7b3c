//! Answers a read of a whole topic, once or as an endless body that follows it.

use super::TopicQuery;
use super::answer::{AnswerForm, RecordsAnswer};
use super::render::Encoding;
use crate::error::Problem;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::Stream;
use millpond_engine::fetch::ReadLimits;
use millpond_engine::fetch::tail::Tail;
use std::time::Duration;
use tokio::time::Instant;

/// Interval of keep-alive lines in a tail without new records, since proxies close idle connections.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

pub async fn answer(mut tail: Tail, form: AnswerForm, query: &TopicQuery) -> Result<Response, Problem> {
    let limits = ReadLimits { max_records: query.max_records, max_bytes: query.max_bytes };
    if query.follow || form == AnswerForm::Events {
        return Ok(form.response(Body::from_stream(endless(tail, form, query.encoding, limits))));
    }
    let mut answer = RecordsAnswer::new(form, query.encoding);
    tail.read(limits, Instant::now() + Duration::from_millis(query.wait_ms), &mut answer).await?;
    Ok(form.response(answer.finish(&tail.token(), "")?))
}

/// Streams chunks of records until the agent stops. An error that retries do not resolve ends the tail: with
/// an SSE event `problem`, or else with an aborted body.
fn endless(
    mut tail: Tail,
    form: AnswerForm,
    encoding: Encoding,
    limits: ReadLimits,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    async_stream::stream! {
        while !tail.is_stopping() {
            let mut answer = RecordsAnswer::new(form, encoding);
            let outcome = match tail.follow(limits, Instant::now() + KEEP_ALIVE_INTERVAL, &mut answer).await {
                Ok(0) => Ok(None),
                Ok(_) => answer.finish(&tail.token(), "").map(Some),
                Err(error) => Err(error.into()),
            };
            match outcome {
                Ok(None) => yield Ok(keep_alive(form)),
                Ok(Some(chunk)) => {
                    for piece in chunk.into_pieces() {
                        yield Ok(piece);
                    }
                }

                Err(problem) if form == AnswerForm::Events => {
                    let event = format!("event: problem\ndata: {}\n\n", problem.body());
                    yield Ok(event.into());
                    return;
                }
                Err(problem) => {
                    yield Err(std::io::Error::other(problem.body()));
                    return;
                }
            }
        }
    }
}

fn keep_alive(form: AnswerForm) -> Bytes {
    Bytes::from_static(if form == AnswerForm::Events { b":\n\n" } else { b"\n" })
}
