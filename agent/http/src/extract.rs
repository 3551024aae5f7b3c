//! Axum extractors for path parameters, query strings and headers, whose rejections are [`Problem`]s.

use super::error::{Code, Problem};
use axum::extract::{FromRequestParts, Path, Query};
use http::HeaderMap;
use http::request::Parts;
use millpond_core::{MemberId, Name, Scope};
use serde::de::DeserializeOwned;

/// The scope (tenant and rights) in which a request is carried out. There is no authentication yet, so it is
/// the same for all requests.
#[derive(Debug, Clone)]
pub struct Caller(pub Scope);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(Scope::unauthenticated()))
    }
}

/// The `{topic}` path parameter.
#[derive(Debug, Clone)]
pub struct TopicName(pub Name);

impl<S: Send + Sync> FromRequestParts<S> for TopicName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(Name::new(&path_parameter(parts, state, "topic").await?)?))
    }
}

/// The `{group}` path parameter.
#[derive(Debug, Clone)]
pub struct GroupName(pub Name);

impl<S: Send + Sync> FromRequestParts<S> for GroupName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(Name::new(&path_parameter(parts, state, "group").await?)?))
    }
}

/// The `{queue}` path parameter.
#[derive(Debug, Clone)]
pub struct QueueName(pub Name);

impl<S: Send + Sync> FromRequestParts<S> for QueueName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(Name::new(&path_parameter(parts, state, "queue").await?)?))
    }
}

/// The `{member}` path parameter. Text that is not a UUID names no member: `member_not_found`.
#[derive(Debug, Clone, Copy)]
pub struct Member(pub MemberId);

impl<S: Send + Sync> FromRequestParts<S> for Member {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = path_parameter(parts, state, "member").await?.parse();
        id.map(|id| Self(MemberId(id)))
            .map_err(|_| Problem::new(Code::MemberNotFound, "there is no such member"))
    }
}

/// The `{partition}` path parameter. Whole numbers outside the range of `i32` are `partition_not_found`.
#[derive(Debug, Clone, Copy)]
pub struct PartitionNumber(pub i32);

impl<S: Send + Sync> FromRequestParts<S> for PartitionNumber {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = path_parameter(parts, state, "partition").await?;
        match text.parse::<i64>() {
            Ok(number) => i32::try_from(number).map(Self).map_err(|_| {
                Problem::new(Code::PartitionNotFound, format!("there is no partition {number}"))
            }),
            Err(_) => Err(Problem::bad_request("a partition is a whole number")),
        }
    }
}

async fn path_parameter<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, Problem> {
    let Path(all) = Path::<Vec<(String, String)>>::from_request_parts(parts, state)
        .await
        .map_err(|e| Problem::bad_request(e.body_text()))?;
    all.into_iter()
        .find(|(n, _)| n == name)
        .map(|(_, value)| value)
        .ok_or_else(|| Problem::bad_request(format!("the path has no {name}")))
}

/// The query string as `T`. Types derive `deny_unknown_fields`, so that a misspelled parameter is refused
/// instead of ignored.
#[derive(Debug, Clone)]
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(Problem::bad_request(error.body_text())),
        }
    }
}

/// The value of a header as text, or `None` if it is absent.
pub fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let refuse = |_| Problem::bad_request(format!("the header {name} is not ASCII text"));
    headers.get(name).map(|value| value.to_str().map_err(refuse)).transpose()
}
