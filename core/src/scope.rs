//! The tenant and the caller on whose behalf a call is made.

use crate::name::Name;

/// Tenant and principal of a call. Every call takes one, and the control plane treats an id of another tenant
/// as if it did not exist.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub tenant: Name,
    /// The caller, for access rights and audit: the name of an API key, the subject of a token, or
    /// [`Scope::ANONYMOUS`].
    pub principal: Name,
}

impl Scope {
    /// Principal of a caller that is not authenticated.
    pub const ANONYMOUS: &str = "anonymous";

    /// The scope of every caller on a server without authentication: the default tenant, anonymous.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::anonymous(Name::default_tenant())
    }

    /// A scope of the tenant for a caller whose name is not known.
    #[must_use]
    pub fn anonymous(tenant: Name) -> Self {
        Self { tenant, principal: Name::literal(Self::ANONYMOUS) }
    }

    /// The scope in which an agent acts for all principals of a tenant, for example when it combines many
    /// calls into one.
    #[must_use]
    pub fn of_tenant(tenant: Name) -> Self {
        Self { tenant, principal: Name::literal("agent") }
    }
}
