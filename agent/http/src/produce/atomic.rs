//! Requests that are stored whole or not at all, and answered record by record.

use super::{Call, stream};
use crate::AppState;
use crate::error::{Code, Problem};
use crate::group::offsets::BatchOffsets;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use millpond_core::control_plane::{Guard, RequestKey};
use millpond_core::group::OffsetsRejected;
use millpond_core::{Name, Offset, RequestId, Topic, limits};
use millpond_engine::hash;
use millpond_engine::produce::AppendError;
use millpond_engine::produce::append::{AppendBuilder, Appended, Basis, BasisTopic, Place};
use millpond_engine::queue::receipt::Receipt;
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

/// Larger bodies are parsed off the async threads.
const PARSE_INLINE_BYTES: usize = 128 * limits::KIB;

pub type Parse = Arc<dyn Fn(&mut AppendBuilder) -> Result<(), Problem> + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ResultsShape {
    One,
    ByTopic,
}

pub struct Atomic<'a> {
    pub call: &'a Call,
    pub topics: Vec<Name>,
    pub expect: Option<Offset>,
    /// Group offsets to be committed with the records, of which there may be none.
    pub offsets: Option<BatchOffsets>,
    /// Queue records to be acked with the commit.
    pub acks: Vec<Receipt>,
    pub shape: ResultsShape,
    /// What a retry must bring again.
    pub body: Bytes,
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Atomic<'_> {
    pub async fn run(mut self, app: &AppState, parse: Parse) -> Result<Response, Problem> {
        let mut again = true;
        loop {
            let (topics, basis) = self.resolve(app).await?;
            let builder = self.parse(&parse, &topics, basis).await?;
            let (guard, missing) = self.guard(app).await?;
            if builder.records() == 0 && guard.is_none() {
                return Ok(render(&[], false, self.shape, &self.topics));
            }
            self.check_expect(&builder)?;
            let placed = Placed::of(&builder);
            let id = RequestId(app.ids.uuid(app.clock.now_ms()));
            let mine = builder.basis.clone();
            let mut append = builder.into_append(id, self.key(&topics), self.expect);
            append.guard = guard;
            append.permit = self.permit.take();
            let appended = match app.writer.append(append).await {
                Err(
                    AppendError::PartitionGone
                    | AppendError::OffsetsRejected(OffsetsRejected::PartitionGone { .. }),
                ) if again => {
                    again = false;
                    for name in self
                        .topics
                        .iter()
                        .chain(&self.offsets.as_ref().map(BatchOffsets::topics).unwrap_or_default())
                    {
                        app.topics.forget(&self.call.principal.tenant, name).await;
                    }
                    continue;
                }
                Err(AppendError::LeaseLost(lost)) => return Err(self.lease_lost(&lost)),
                outcome => match (outcome, missing) {
                    (
                        Err(AppendError::OffsetsRejected(OffsetsRejected::PartitionGone { .. })),
                        Some(missing),
                    ) => return Err(missing),
                    (outcome, _) => outcome?,
                },
            };
            // A retry under another partition count or turn: the same body under those of the first request
            // has the stored places.
            let placed = match &appended.basis {
                first if *first == mine => placed,
                first => Placed::of(&self.parse(&parse, &topics, first.clone()).await?),
            };
            let results = placed.results(app, &topics, &appended).await?;
            return Ok(render(&results, appended.duplicate, self.shape, &self.topics));
        }
    }

    async fn resolve(&self, app: &AppState) -> Result<(Vec<Arc<Topic>>, Basis), Problem> {
        let mut topics = Vec::with_capacity(self.topics.len());
        for name in &self.topics {
            topics.push(app.topics.get_or_create(&self.call.principal.tenant, name).await?);
        }
        let basis_of = |topic: &Arc<Topic>| BasisTopic {
            partitions: topic.partition_count(),
            sticky: app.topics.sticky(topic),
        };
        let basis =
            Basis { timestamp: self.call.shared.now_ms, topics: topics.iter().map(basis_of).collect() };
        Ok((topics, basis))
    }

    /// The group offsets, and what is wrong with them should they be looked at.
    async fn guard(&self, app: &AppState) -> Result<(Option<Guard>, Option<Problem>), Problem> {
        let tenant = &self.call.principal.tenant;
        let acks =
            (!self.acks.is_empty()).then(|| (tenant.clone(), self.acks.iter().map(Receipt::ack).collect()));
        let Some(offsets) = &self.offsets else {
            return Ok((acks.map(|acks| Guard { offsets: None, acks: Some(acks) }), None));
        };
        let (offsets, missing) = offsets.resolve(app, tenant).await?;
        match missing {
            // Without a key nothing can have been stored before.
            Some(problem) if self.call.idempotency_key.is_none() && acks.is_none() => Err(problem),
            missing => Ok((Some(Guard { offsets: Some(offsets), acks }), missing)),
        }
    }

    fn lease_lost(&self, lost: &[usize]) -> Problem {
        let receipts: Vec<String> =
            lost.iter().filter_map(|n| self.acks.get(*n)).map(Receipt::text).collect();
        let detail =
            format!("{} of the acks name records that are no longer held: nothing was stored", lost.len());
        Problem::new(Code::LeaseLost, detail).with("receipts", receipts)
    }

    async fn parse(
        &self,
        parse: &Parse,
        topics: &[Arc<Topic>],
        basis: Basis,
    ) -> Result<AppendBuilder, Problem> {
        let mut builder = AppendBuilder::new(topics.to_vec(), basis);
        if self.body.len() <= PARSE_INLINE_BYTES {
            parse(&mut builder)?;
            return Ok(builder);
        }
        let parse = Arc::clone(parse);
        let parsed = tokio::task::spawn_blocking(move || parse(&mut builder).map(|()| builder)).await;
        parsed.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
    }

    fn check_expect(&self, builder: &AppendBuilder) -> Result<(), Problem> {
        let one =
            builder.explicit && builder.order.windows(2).all(|pair| pair[0].partition == pair[1].partition);
        if self.expect.is_some() && !one {
            return Err(Problem::bad_request("with If-Match all records name the same partition"));
        }
        Ok(())
    }

    fn key(&self, topics: &[Arc<Topic>]) -> Option<RequestKey> {
        let receipts = || -> Option<String> {
            let mut texts: Vec<String> = self.acks.iter().map(Receipt::text).collect();
            texts.sort_unstable();
            // No header holds a line end, so no client's key is like it.
            (!texts.is_empty()).then(|| format!("\n{}", texts.join("\n")))
        };
        let key = self.call.idempotency_key.clone().or_else(receipts)?;
        let path = match self.shape {
            ResultsShape::One => stream::key_place(topics.first().map_or(0, |t| t.id.0), 0),
            ResultsShape::ByTopic => "batches".to_owned(),
        };
        Some(RequestKey {
            key_hash: hash::of(&[
                self.call.principal.tenant.as_str().as_bytes(),
                path.as_bytes(),
                key.as_bytes(),
            ]),
            body_hash: hash::of(&[&self.call.shape, &self.body]),
            ttl_ms: limits::IDEMPOTENCY_KEY_TTL_MS,
        })
    }
}

struct Placed {
    order: Vec<Place>,
    times: Vec<i64>,
    dedups: Vec<Option<Uuid>>,
}

struct RecordResult {
    topic: usize,
    partition: i32,
    /// `None` where the window of a dedup id has ended since, and with it the memory of where the first
    /// record lies.
    offset: Option<Offset>,
    timestamp: i64,
    duplicate: bool,
}

impl Placed {
    fn of(builder: &AppendBuilder) -> Self {
        let order = builder.order.clone();
        let times = order.iter().map(|place| builder.timestamp(*place)).collect();
        let dedups = order.iter().map(|place| builder.dedup_hash(*place)).collect();
        Self { order, times, dedups }
    }

    async fn results(
        &self,
        app: &AppState,
        topics: &[Arc<Topic>],
        appended: &Appended,
    ) -> Result<Vec<RecordResult>, Problem> {
        let pieces: HashMap<(usize, i32), usize> =
            appended.pieces.iter().enumerate().map(|(n, p)| ((p.topic, p.partition), n)).collect();
        let offset = |place: &Place| {
            pieces
                .get(&(place.topic, place.partition))
                .and_then(|n| appended.pieces[*n].offset(place.position))
        };
        let mut known: HashMap<(usize, Uuid), (i32, Offset)> = HashMap::new();
        for (number, topic) in topics.iter().enumerate() {
            let dropped = self
                .order
                .iter()
                .zip(&self.dedups)
                .filter(|(place, _)| place.topic == number && offset(place).is_none());
            let hashes: Vec<Uuid> = dropped.filter_map(|(_, hash)| *hash).collect();
            if hashes.is_empty() {
                continue;
            }
            let found = app.plane.dedup_offsets(topic.id, &hashes).await?;
            known.extend(hashes.iter().zip(found).filter_map(|(hash, at)| Some(((number, *hash), at?))));
        }
        let result = |((place, timestamp), hash): ((&Place, &i64), &Option<Uuid>)| {
            let (partition, offset, first) = match offset(place) {
                Some(offset) => (place.partition, Some(offset), true),
                None => hash
                    .and_then(|h| known.get(&(place.topic, h)))
                    .map_or((place.partition, None, false), |(p, o)| (*p, Some(*o), false)),
            };
            RecordResult {
                topic: place.topic,
                partition,
                offset,
                timestamp: *timestamp,
                duplicate: !first || appended.duplicate,
            }
        };
        Ok(self.order.iter().zip(&self.times).zip(&self.dedups).map(result).collect())
    }
}

fn render(results: &[RecordResult], duplicate: bool, shape: ResultsShape, topics: &[Name]) -> Response {
    let mut out = Vec::with_capacity(32 + results.len() * 80);
    let list = |out: &mut Vec<u8>, topic: usize| {
        out.push(b'[');
        for (n, r) in results.iter().filter(|r| r.topic == topic).enumerate() {
            if n > 0 {
                out.push(b',');
            }
            let RecordResult { partition, timestamp, duplicate, .. } = r;
            write!(out, "{{\"partition\":{partition},\"offset\":").unwrap_or_default();
            match r.offset {
                Some(offset) => write!(out, "{offset}").unwrap_or_default(),
                None => out.extend_from_slice(b"null"),
            }
            write!(out, ",\"timestamp\":{timestamp},\"duplicate\":{duplicate}}}").unwrap_or_default();
        }
        out.push(b']');
    };
    out.extend_from_slice(b"{\"results\":");
    match shape {
        ResultsShape::One => list(&mut out, 0),
        ResultsShape::ByTopic => {
            out.push(b'{');
            for (number, name) in topics.iter().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                write!(out, "\"{name}\":").unwrap_or_default();
                list(&mut out, number);
            }
            out.push(b'}');
        }
    }
    if duplicate {
        out.extend_from_slice(b",\"duplicate\":true");
    }
    out.push(b'}');
    let mut response = out.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
