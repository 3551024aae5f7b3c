//! Query parameters of listings by name, which come in pages.

use super::error::Problem;
use millpond_core::limits::PAGE_MAX_NAMES;
use millpond_core::{Name, PageRequest};
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// `next` of the previous page: the page begins after this name.
    after: Option<String>,
    /// Names of a page, 1 to 1000. Default 1000. A page may be shorter and still not be the last.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

impl PageQuery {
    pub fn request(self, max_partitions: i64) -> Result<PageRequest, Problem> {
        let limit = self.limit.unwrap_or(PAGE_MAX_NAMES);
        if !(1..=PAGE_MAX_NAMES).contains(&limit) {
            return Err(Problem::bad_request(format!("limit is out of range: 1 to {PAGE_MAX_NAMES}")));
        }
        let after = self.after.map(|after| Name::new(&after)).transpose()?;
        Ok(PageRequest { after, limit, max_partitions })
    }
}
