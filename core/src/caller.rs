//! Who is asking, and what they may do.
//!
//! A token proves only *who* ([`Identity`](crate::token::Identity)); the database says in which role and where.
//! [`store::door`](crate::store::door) reads that and hands out a [`PortalCaller`]; the guards here decide on it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Result},
    ids::{TenantId, UserId},
    sabotage::{Defence, out},
};

/// What a portal user is, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Talks to the agents of their company.
    CustomerOperator,
    /// Runs their company: also answers where a person is asked for.
    CustomerAdmin,
    /// Runs the product: every company, each look recorded.
    PlatformAdmin,
}

impl Role {
    /// The role as tables, tokens and clients write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CustomerOperator => "customer_operator",
            Self::CustomerAdmin => "customer_admin",
            Self::PlatformAdmin => "platform_admin",
        }
    }

    /// What somebody with this role may do in a company that knows them as `member`: the lesser of the two,
    /// so that neither table alone can raise anybody. A platform_admin stays one everywhere.
    #[must_use]
    pub fn within(self, member: Self) -> Self {
        match self {
            Self::PlatformAdmin => self,
            Self::CustomerAdmin | Self::CustomerOperator => self.min(member),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "customer_operator" => Ok(Self::CustomerOperator),
            "customer_admin" => Ok(Self::CustomerAdmin),
            "platform_admin" => Ok(Self::PlatformAdmin),
            other => Err(format!("no such role: {other}")),
        }
    }
}

/// The verified person behind a request, as the database knows them now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortalCaller {
    /// Who it is.
    pub user_id: UserId,
    /// What they are: `portal_users.role`.
    pub role: Role,
    /// The tenant of this request, if they are a member of it.
    pub tenant_id: Option<TenantId>,
    /// As what that tenant knows them: `user_tenant_roles.role`.
    pub tenant_role: Option<Role>,
}

/// Proof that a caller may act in a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantMember {
    /// The tenant they may act in.
    pub tenant: TenantId,
    /// Who may.
    pub caller: PortalCaller,
}

/// Proof that a caller may act for a tenant: its customer_admin, or a platform_admin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantAdmin(pub TenantMember);

/// Lets members of `tenant` and platform_admins pass.
///
/// # Errors
/// [`Code::Forbidden`] for anyone else.
pub fn require_tenant_member(caller: PortalCaller, tenant: TenantId) -> Result<TenantMember> {
    if caller.role == Role::PlatformAdmin || caller.tenant_id == Some(tenant) || out(Defence::ApplicationChecks) {
        Ok(TenantMember { tenant, caller })
    } else {
        Err(Error::new(Code::Forbidden, "You are not a member of this tenant."))
    }
}

/// Lets customer_admins of `tenant` and platform_admins pass; an operator never.
///
/// # Errors
/// [`Code::Forbidden`] for anyone else.
pub fn require_tenant_admin(caller: PortalCaller, tenant: TenantId) -> Result<TenantAdmin> {
    let member = require_tenant_member(caller, tenant)?;
    match caller.tenant_role.map_or(caller.role, |known| caller.role.within(known)) {
        Role::PlatformAdmin | Role::CustomerAdmin => Ok(TenantAdmin(member)),
        Role::CustomerOperator if out(Defence::ApplicationChecks) => Ok(TenantAdmin(member)),
        Role::CustomerOperator => Err(Error::new(Code::Forbidden, "Only an admin of this tenant may do that.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guards_let_pass_whom_they_should() {
        let (ours, theirs) = (TenantId::new(), TenantId::new());
        use Role::{CustomerAdmin, CustomerOperator, PlatformAdmin};
        // role, tenant they are a member of, may they act in ours, may they act for ours
        for (role, tenant_id, member, admin) in [
            (PlatformAdmin, None, true, true),
            (PlatformAdmin, Some(theirs), true, true),
            (CustomerAdmin, Some(ours), true, true),
            (CustomerAdmin, Some(theirs), false, false),
            (CustomerAdmin, None, false, false),
            (CustomerOperator, Some(ours), true, false),
            (CustomerOperator, Some(theirs), false, false),
            (CustomerOperator, None, false, false),
        ] {
            let caller =
                PortalCaller { user_id: UserId::new(), role, tenant_id, tenant_role: tenant_id.and(Some(role)) };
            assert_eq!(require_tenant_member(caller, ours).is_ok(), member, "{caller:?}");
            assert_eq!(require_tenant_admin(caller, ours).is_ok(), admin, "{caller:?}");
        }
    }

    #[test]
    fn neither_table_alone_raises_anybody() {
        use Role::{CustomerAdmin, CustomerOperator, PlatformAdmin};
        for (portal, member, within) in [
            (CustomerOperator, CustomerAdmin, CustomerOperator),
            (CustomerAdmin, CustomerOperator, CustomerOperator),
            (CustomerAdmin, CustomerAdmin, CustomerAdmin),
            (CustomerOperator, PlatformAdmin, CustomerOperator),
            (CustomerAdmin, PlatformAdmin, CustomerAdmin),
            (PlatformAdmin, CustomerOperator, PlatformAdmin),
        ] {
            assert_eq!(portal.within(member), within, "{portal} known as {member}");
        }
    }
}
