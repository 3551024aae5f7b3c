//! Pages of listings that are ordered by name.

use crate::name::Name;

/// Asks for one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The page begins after this name; `None`: with the first.
    pub after: Option<Name>,
    /// Maximum number of names, at least 1.
    pub limit: i64,
    /// Maximum number of partitions that the things of the page have together. The page ends early before the
    /// first that would exceed it, unless it would be empty.
    pub max_partitions: i64,
}

impl PageRequest {
    /// The page with everything, for tests and small listings.
    #[must_use]
    pub fn all() -> Self {
        Self { after: None, limit: i64::from(i32::MAX), max_partitions: i64::MAX }
    }

    /// Cuts the page out of all things in the order of their names.
    pub fn cut<T>(
        &self,
        all: impl IntoIterator<Item = T>,
        name: impl Fn(&T) -> &Name,
        partitions: impl Fn(&T) -> usize,
    ) -> Page<T> {
        let mut page = Page { items: Vec::new(), has_more: false };
        let (mut names, mut room) = (self.limit, self.max_partitions);
        for item in all {
            if self.after.as_ref().is_some_and(|after| name(&item) <= after) {
                continue;
            }
            room = room.saturating_sub(crate::saturated(partitions(&item)));
            if !page.items.is_empty() && (names == 0 || room < 0) {
                page.has_more = true;
                break;
            }
            names -= 1;
            page.items.push(item);
        }
        page
    }
}

/// One page of a listing, ordered by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Whether there are names after the last of this page.
    pub has_more: bool,
}

impl<T> Page<T> {
    /// The same page with other items.
    pub fn map<U>(self, item: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(item).collect(), has_more: self.has_more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_at_its_limits_but_is_never_empty() {
        let all = [("a", 1), ("b", 5), ("c", 9), ("d", 1)].map(|(n, p)| (Name::new(n).expect("a name"), p));
        let page = |after: Option<&str>, limit, max_partitions| {
            let after = after.map(|after| Name::new(after).expect("a name"));
            let request = PageRequest { after, limit, max_partitions };
            let page = request.cut(all.iter(), |(name, _)| name, |(_, partitions)| *partitions);
            let names: String = page.items.iter().map(|(name, _)| name.as_str()).collect();
            (names, page.has_more)
        };
        assert_eq!(page(None, 10, 100), ("abcd".to_owned(), false));
        assert_eq!(page(None, 4, 16), ("abcd".to_owned(), false));
        assert_eq!(page(None, 3, 100), ("abc".to_owned(), true));
        assert_eq!(page(None, 10, 6), ("ab".to_owned(), true));
        assert_eq!(page(Some("b"), 10, 6), ("c".to_owned(), true));
        assert_eq!(page(Some("bb"), 10, 100), ("cd".to_owned(), false));
        assert_eq!(page(Some("d"), 10, 100), (String::new(), false));
    }
}
