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
        Self::anonymous(Name::default_tenant())
    }

    /// A tenant, without a name of who calls for it.
    #[must_use]
    pub fn anonymous(tenant: Name) -> Self {
        Self { tenant, principal: Name::literal(Self::ANONYMOUS) }
    }

    /// The agent itself, on behalf of all of a tenant's principals: what it does for many calls at once.
    #[must_use]
    pub fn of_tenant(tenant: Name) -> Self {
        Self { tenant, principal: Name::literal("agent") }
    }
}
