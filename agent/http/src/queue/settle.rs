//! `POST /v1/queues/{queue}/settlements`: acks, nacks, renews or rejects leased records, with a result per
//! entry.

use super::check_range;
use super::lease::check_request_id;
use crate::AppState;
use crate::body::{admitted, holding};
use crate::error::{Problem, ProblemBody};
use crate::extract::{Caller, QueueName};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use millpond_core::{LeaseId, limits};
use millpond_engine::queue::plan::{SettleAction, SettleItem, Settled, Target};
use millpond_engine::queue::receipt::Receipt;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Write;
use std::marker::PhantomData;
use tokio::sync::OwnedSemaphorePermit;

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Nack {
    receipt: String,
    /// Delay until the record can be leased again, 0 to 31536000000. Default: as the queue's retry policy
    /// says, or 0 if this does not count as a failure.
    delay_ms: Option<i64>,
    /// Shown in listings; cut off after 1024 bytes.
    reason: Option<String>,
    /// Whether this counts as a failure. Default true.
    counts: Option<bool>,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Renew {
    receipt: String,
    /// Lease time from now on, 1000 to 43200000. Default: `lease_ms` of the queue.
    lease_ms: Option<i64>,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Reject {
    receipt: String,
    reason: Option<String>,
}

#[derive(Debug, utoipa::ToSchema)]
#[serde(untagged)]
enum RenewLease {
    Id(String),
    For { lease_id: String, lease_ms: Option<i64> },
}

/// By hand, since what serde derives for an untagged enum first keeps the whole value, of any shape, in a
/// form that takes many times its bytes.
impl<'de> Deserialize<'de> for RenewLease {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct For {
            lease_id: String,
            lease_ms: Option<i64>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RenewLease;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a lease id, or an object with lease_id")
            }

            fn visit_str<E: de::Error>(self, id: &str) -> Result<RenewLease, E> {
                Ok(RenewLease::Id(id.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RenewLease, A::Error> {
                let For { lease_id, lease_ms } =
                    For::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(RenewLease::For { lease_id, lease_ms })
            }
        }
        from.deserialize_any(Either)
    }
}

/// A list that is refused as soon as it has more than [`limits::SETTLE_MAX_ENTRIES`], before it takes memory.
fn entries<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Bounded<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                if all.len() == limits::SETTLE_MAX_ENTRIES {
                    return Err(de::Error::custom(too_many_entries()));
                }
                all.push(one);
            }
            Ok(all)
        }
    }
    from.deserialize_seq(Bounded(PhantomData))
}

fn too_many_entries() -> String {
    format!("a settlement has at most {} entries", limits::SETTLE_MAX_ENTRIES)
}

/// Entries of a settlement. If several name the same receipt, all but the first are answered `lost`.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct SettleBody {
    /// 1 to 128 bytes. If the call is sent again with the same id within 5 minutes, it gets the same answer.
    request_id: Option<String>,
    /// Receipts of records that are done.
    #[serde(default, deserialize_with = "entries")]
    ack: Vec<String>,
    /// Records that go back to the queue.
    #[serde(default, deserialize_with = "entries")]
    nack: Vec<Nack>,
    #[serde(default, deserialize_with = "entries")]
    renew: Vec<Renew>,
    /// Records that become dead at once, however often they have failed.
    #[serde(default, deserialize_with = "entries")]
    reject: Vec<Reject>,
    /// Lease ids: all records of them that are not settled yet are acked.
    #[serde(default, deserialize_with = "entries")]
    ack_leases: Vec<String>,
    /// Lease ids: all records of them that are not settled yet are renewed.
    #[serde(default, deserialize_with = "entries")]
    renew_leases: Vec<RenewLease>,
}

/// The result of an entry, with `receipt`, or with `lease_id` and `records`.
#[derive(Serialize, utoipa::ToSchema)]
struct SettleResult {
    receipt: Option<String>,
    lease_id: Option<String>,
    /// `acked`, `released`, `renewed`, `dead`, or `lost`: the record is no longer leased under this receipt,
    /// and nothing was changed.
    status: String,
    /// Number of records of the lease that were settled.
    records: Option<i64>,
    /// New deadline of what was renewed.
    deadline_ms: Option<i64>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct SettleAnswer {
    /// Results in the order of ack, nack, renew, reject, ack_leases, renew_leases.
    results: Vec<SettleResult>,
}

/// A reason as it can be stored: without NUL characters, which Postgres refuses in text, and cut off after
/// [`limits::REASON_MAX_BYTES`].
fn tidy(reason: Option<String>) -> Option<String> {
    let mut text = reason?.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(limits::REASON_MAX_BYTES));
    Some(text)
}

fn record(receipt: &str) -> Target {
    Receipt::parse(receipt).map_or(Target::Nothing, Target::Record)
}

fn lease(id: &str) -> Target {
    id.parse().map_or(Target::Nothing, |id| Target::Lease(LeaseId(id)))
}

/// The name of an entry, which its result repeats.
enum Label {
    Receipt(String),
    Lease(String),
}

impl Label {
    fn bytes(&self) -> usize {
        let (Self::Receipt(text) | Self::Lease(text)) = self;
        text.len()
    }
}

/// A settlement in the engine's terms.
struct Settlement {
    items: Vec<SettleItem>,
    /// One for each item, in the same order.
    labels: Vec<Label>,
    request_id: Option<String>,
}

impl Settlement {
    fn push_record(&mut self, receipt: String, action: SettleAction) {
        self.items.push(SettleItem { target: record(&receipt), action });
        self.labels.push(Label::Receipt(receipt));
    }

    fn push_lease(&mut self, id: String, action: SettleAction) {
        self.items.push(SettleItem { target: lease(&id), action });
        self.labels.push(Label::Lease(id));
    }
}

impl SettleBody {
    fn entries(&self) -> usize {
        self.ack.len()
            + self.nack.len()
            + self.renew.len()
            + self.reject.len()
            + self.ack_leases.len()
            + self.renew_leases.len()
    }

    fn settlement(self) -> Result<Settlement, Problem> {
        check_request_id(self.request_id.as_deref())?;
        let entries = self.entries();
        if entries > limits::SETTLE_MAX_ENTRIES {
            return Err(Problem::bad_request(too_many_entries()));
        }
        let mut settlement = Settlement {
            items: Vec::with_capacity(entries),
            labels: Vec::with_capacity(entries),
            request_id: self.request_id,
        };
        let renewed = |lease_ms: Option<i64>| {
            check_range("lease_ms", lease_ms, limits::LEASE_MIN_MS, limits::LEASE_MAX_MS)?;
            Ok::<_, Problem>(SettleAction::Renew { lease_ms })
        };
        for receipt in self.ack {
            settlement.push_record(receipt, SettleAction::Ack);
        }
        for nack in self.nack {
            check_range("delay_ms", nack.delay_ms, 0, limits::RETRY_MAX_MS)?;
            let action = SettleAction::Nack {
                delay_ms: nack.delay_ms,
                counts: nack.counts.unwrap_or(true),
                reason: tidy(nack.reason),
            };
            settlement.push_record(nack.receipt, action);
        }
        for renew in self.renew {
            settlement.push_record(renew.receipt, renewed(renew.lease_ms)?);
        }
        for reject in self.reject {
            settlement.push_record(reject.receipt, SettleAction::Reject { reason: tidy(reject.reason) });
        }
        for id in self.ack_leases {
            settlement.push_lease(id, SettleAction::Ack);
        }
        for lease in self.renew_leases {
            let (id, lease_ms) = match lease {
                RenewLease::Id(id) => (id, None),
                RenewLease::For { lease_id, lease_ms } => (lease_id, lease_ms),
            };
            settlement.push_lease(id, renewed(lease_ms)?);
        }
        Ok(settlement)
    }
}

/// Settles leased records, with any mix of acks, nacks, renewals and rejections, on any agent. A receipt is
/// valid, even after its deadline, until its lease is ended by a settlement or by a lease of the record to
/// another worker; then it changes nothing and is answered `lost`.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/settlements", operation_id = "settle_records", tag = "queues",
    params(("queue" = String, Path)),
    request_body = SettleBody,
    responses((status = 200, description = "a result per entry", body = SettleAnswer),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request, body_too_large, throttled",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX",
            description = "control_plane_unavailable: unknown outcome, retry with the same request_id",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn settle(
    State(app): State<AppState>,
    Caller(scope): Caller,
    QueueName(name): QueueName,
    body: Body,
) -> Result<Response, Problem> {
    let (body, permit) = admitted(body, limits::REQUEST_MAX_BYTES, &app.engine.admission).await?;
    let parsed: SettleBody =
        serde_json::from_slice(&body).map_err(|e| Problem::bad_request(e.to_string()))?;
    drop(body);
    let Settlement { items, labels, request_id } = parsed.settlement()?;
    let settled = app.engine.queues.settle(&scope, &name, &items, request_id.as_deref()).await?;
    Ok(answer(&labels, &settled, permit))
}

fn answer(labels: &[Label], settled: &[Settled], permit: OwnedSemaphorePermit) -> Response {
    let names: usize = labels.iter().map(Label::bytes).sum();
    let mut out = Vec::with_capacity(32 + names + settled.len() * 96);
    out.extend_from_slice(b"{\"results\":[");
    for (n, (label, settled)) in labels.iter().zip(settled).enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let (name, text) = match label {
            Label::Receipt(text) => ("receipt", text),
            Label::Lease(text) => ("lease_id", text),
        };
        write!(out, "{{\"{name}\":").unwrap_or_default();
        serde_json::to_writer(&mut out, text).unwrap_or_default();
        write!(out, ",\"status\":\"{}\"", settled.status.as_str()).unwrap_or_default();
        if matches!(label, Label::Lease(_)) {
            write!(out, ",\"records\":{}", settled.records).unwrap_or_default();
        }
        if let Some(deadline) = settled.deadline_ms {
            write!(out, ",\"deadline_ms\":{deadline}").unwrap_or_default();
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    let mut response = holding(out, permit).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
