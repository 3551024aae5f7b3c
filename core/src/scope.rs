//! On whose behalf a verb is carried out.

use crate::name::Name;

/// Tenant and principal of a call. Every verb takes one, and the control plane answers an id of another
/// tenant as if it did not exist.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub tenant: Name,
    /// Who calls, for rights and audit: an API key, a token's subject, or [`Scope::ANONYMOUS`].
    pub principal: Name,
}

impl Scope {
    pub const ANONYMOUS: &str = "anonymous";

    /// Everybody, on a server that runs without authentication: one tenant, no names.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self { tenant: Name::default_tenant(), principal: Name::literal(Self::ANONYMOUS) }
    }
}
