//! `POST …/settlements`: what became of leased records, with a verdict per entry.

use super::check_range;
use super::lease::check_request_id;
use crate::AppState;
use crate::error::{Problem, ProblemBody};
use crate::extract::{Principal, QueueName};
use crate::produce::body::collect;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use millpond_core::queue::Action;
use millpond_core::{LeaseId, limits};
use millpond_engine::queue::plan::{Item, Status, Target, Told};
use millpond_engine::queue::receipt::Receipt;
use serde::{Deserialize, Serialize};
use std::io::Write;

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Nack {
    receipt: String,
    /// 0 to 31536000000. Default: by the queue's retry policy, or at once if it does not count.
    delay_ms: Option<i64>,
    /// Shown in listings; what is beyond 1024 bytes is cut off.
    reason: Option<String>,
    /// Whether this is a failure. Default true.
    counts: Option<bool>,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Renew {
    receipt: String,
    /// From now, 1000 to 43200000. Default: the queue's.
    lease_ms: Option<i64>,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Reject {
    receipt: String,
    reason: Option<String>,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
enum RenewLease {
    Id(String),
    For { lease_id: String, lease_ms: Option<i64> },
}

/// Entries beyond the first for a receipt are answered `lost`.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct SettleBody {
    /// At most 128 bytes. Sent again within 5 minutes, the call answers the same.
    request_id: Option<String>,
    /// Receipts of records that are done.
    #[serde(default)]
    ack: Vec<String>,
    /// Records that go back to the queue.
    #[serde(default)]
    nack: Vec<Nack>,
    #[serde(default)]
    renew: Vec<Renew>,
    /// Records that are dead, whatever their failures.
    #[serde(default)]
    reject: Vec<Reject>,
    /// Lease ids: what is left of them is done.
    #[serde(default)]
    ack_leases: Vec<String>,
    /// Lease ids: what is left of them is renewed.
    #[serde(default)]
    renew_leases: Vec<RenewLease>,
}

/// The verdict on an entry: with `receipt`, or with `lease_id` and `records`.
#[derive(Serialize, utoipa::ToSchema)]
struct SettleResult {
    receipt: Option<String>,
    lease_id: Option<String>,
    /// `acked`, `released`, `renewed`, `dead`, or `lost`: the record is no longer held under this receipt,
    /// and nothing was changed.
    status: String,
    records: Option<i64>,
    /// Of what was renewed.
    deadline_ms: Option<i64>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct SettleAnswer {
    /// In the order of ack, nack, renew, reject, ack_leases, renew_leases.
    results: Vec<SettleResult>,
}

/// Text that Postgres can store, not too long.
fn tidy(reason: Option<String>) -> Option<String> {
    let mut text = reason?.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(limits::REASON_MAX_BYTES));
    Some(text)
}

fn of_record(receipt: &str, action: Action) -> Item {
    Item { target: Receipt::parse(receipt).map_or(Target::Nothing, Target::Record), action }
}

fn of_lease(id: &str, action: Action) -> Item {
    Item { target: id.parse().map_or(Target::Nothing, |id| Target::Lease(LeaseId(id))), action }
}

/// An entry of the answer: what it is called by.
enum Label {
    Receipt(String),
    Lease(String),
}

struct Asked {
    items: Vec<Item>,
    labels: Vec<Label>,
    request_id: Option<String>,
}

impl Asked {
    fn push_record(&mut self, receipt: String, action: Action) {
        self.items.push(of_record(&receipt, action));
        self.labels.push(Label::Receipt(receipt));
    }

    fn push_lease(&mut self, id: String, action: Action) {
        self.items.push(of_lease(&id, action));
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

    fn asked(self, default_ms: i64) -> Result<Asked, Problem> {
        check_request_id(self.request_id.as_deref())?;
        let entries = self.entries();
        if entries > limits::SETTLE_MAX_ENTRIES {
            return Err(Problem::bad_request(format!(
                "a settlement has at most {} entries",
                limits::SETTLE_MAX_ENTRIES
            )));
        }
        let mut asked = Asked {
            items: Vec::with_capacity(entries),
            labels: Vec::with_capacity(entries),
            request_id: self.request_id,
        };
        let renewed = |lease_ms: Option<i64>| {
            check_range("lease_ms", lease_ms, limits::LEASE_MIN_MS, limits::LEASE_MAX_MS)?;
            Ok::<_, Problem>(Action::Renew { lease_ms: lease_ms.unwrap_or(default_ms) })
        };
        for receipt in self.ack {
            asked.push_record(receipt, Action::Ack);
        }
        for nack in self.nack {
            check_range("delay_ms", nack.delay_ms, 0, limits::RETRY_MAX_MS)?;
            let action = Action::Nack {
                delay_ms: nack.delay_ms,
                counts: nack.counts.unwrap_or(true),
                reason: tidy(nack.reason),
            };
            asked.push_record(nack.receipt, action);
        }
        for renew in self.renew {
            asked.push_record(renew.receipt, renewed(renew.lease_ms)?);
        }
        for reject in self.reject {
            asked.push_record(reject.receipt, Action::Reject { reason: tidy(reject.reason) });
        }
        for id in self.ack_leases {
            asked.push_lease(id, Action::Ack);
        }
        for lease in self.renew_leases {
            let (id, lease_ms) = match lease {
                RenewLease::Id(id) => (id, None),
                RenewLease::For { lease_id, lease_ms } => (lease_id, lease_ms),
            };
            asked.push_lease(id, renewed(lease_ms)?);
        }
        Ok(asked)
    }
}

/// Settles leased records: acks, nacks, renewals, rejections, mixed. Any agent settles any receipt. A receipt
/// counts as long as nobody has ended its lease, even past the deadline; one that is stale changes nothing
/// and is answered `lost`.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/settlements", operation_id = "settle_records", tag = "queues",
    params(("queue" = String, Path)),
    request_body = SettleBody,
    responses((status = 200, description = "a verdict per entry", body = SettleAnswer),
        (status = 404, description = "queue_not_found",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "bad_request, body_too_large, throttled",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = "5XX", description = "control_plane_unavailable: unknown outcome, send it again with the same request_id",
            body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn settle(
    State(app): State<AppState>,
    principal: Principal,
    QueueName(name): QueueName,
    body: Body,
) -> Result<Response, Problem> {
    let body = collect(body, 8 * limits::MIB, None).await?;
    let body: SettleBody = serde_json::from_slice(&body).map_err(|e| Problem::bad_request(e.to_string()))?;
    let queue = app.queues.get(&principal.tenant, &name).await?;
    let Asked { items, labels, request_id } = body.asked(queue.config.lease_ms)?;
    let mut told = app.queues.hub(&queue).settle(&items, request_id.as_deref()).await?.told;
    if told.iter().any(|t| t.status == Status::Lost) {
        // Perhaps it was another queue of this name that was remembered.
        app.queues.forget(&principal.tenant, &name).await;
        let now = app.queues.get(&principal.tenant, &name).await?;
        if now.id != queue.id {
            told = app.queues.hub(&now).settle(&items, request_id.as_deref()).await?.told;
        }
    }
    Ok(answer(&labels, &told))
}

fn answer(labels: &[Label], told: &[Told]) -> Response {
    let mut out = Vec::with_capacity(32 + told.len() * 96);
    out.extend_from_slice(b"{\"results\":[");
    for (n, (label, told)) in labels.iter().zip(told).enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let (name, text) = match label {
            Label::Receipt(text) => ("receipt", text),
            Label::Lease(text) => ("lease_id", text),
        };
        write!(out, "{{\"{name}\":").unwrap_or_default();
        serde_json::to_writer(&mut out, text).unwrap_or_default();
        write!(out, ",\"status\":\"{}\"", told.status.as_str()).unwrap_or_default();
        if matches!(label, Label::Lease(_)) {
            write!(out, ",\"records\":{}", told.records).unwrap_or_default();
        }
        if let Some(deadline) = told.deadline_ms {
            write!(out, ",\"deadline_ms\":{deadline}").unwrap_or_default();
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    let mut response = out.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
