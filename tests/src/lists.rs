//! Whole listings of what a tenant has.

use crate::stage::Stage;
use millpond_core::queue::Queue;
use millpond_core::{Name, PageRequest, Scope, Topic};

impl Stage {
    pub async fn topics(&self, scope: &Scope) -> Vec<Topic> {
        let page = self.plane.topics(scope, &PageRequest::all()).await.expect("a list");
        assert!(!page.has_more);
        page.items.into_iter().map(|(topic, _)| topic).collect()
    }

    pub async fn queues(&self, scope: &Scope) -> Vec<Queue> {
        let page = self.plane.queues(scope, &PageRequest::all()).await.expect("a list");
        assert!(!page.has_more);
        page.items.into_iter().map(|(queue, _)| queue).collect()
    }

    pub async fn groups(&self, scope: &Scope) -> Vec<Name> {
        let page = self.plane.groups(scope, &PageRequest::all()).await.expect("a list");
        assert!(!page.has_more);
        page.items.into_iter().map(|group| group.name).collect()
    }
}
