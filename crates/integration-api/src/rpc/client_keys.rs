//! Client keys of Okta integrations: what is shown of them, and their rotation by command.

use shared::{
    audit::{self, Event, Outcome, names},
    id::IntegrationId,
    integration::Connection,
    wire::v1,
};

use super::{convert, id, integration::Integrations};
use crate::{
    auth::Caller,
    error::ApiError,
    store::{
        client_keys::{Key, Rotation},
        integrations,
    },
};

impl Integrations {
    pub(super) async fn rotate_client_key(
        &self,
        caller: &Caller,
        request: v1::RotateClientKeyRequest,
    ) -> Result<v1::RotateClientKeyResponse, ApiError> {
        let tenant = caller.tenant()?;
        let v1::RotateClientKeyRequest { id: text, emergency } = request;
        let integration = id("id", &text)?;
        let mut tx = self.db.tenant(tenant).await?;
        let found = integrations::get(&mut tx, tenant, integration)
            .await?
            .ok_or(ApiError::NotFound("integration"))?;
        if !matches!(found.connection, Connection::Okta(_)) {
            return Err(ApiError::Precondition {
                reason: "NO_CLIENT_KEY",
                message:
                    "only Okta integrations have a key of ours; give a new secret with UpdateIntegration \
                     (`parapet integration update`)"
                        .into(),
            });
        }
        let message = if emergency {
            "the emergency replacement of an integration's client keys was asked for"
        } else {
            "the rotation of an integration's client key was asked for"
        };
        let event = Event::new(
            Some(tenant),
            names::CLIENT_KEY_ROTATION_REQUESTED,
            caller.actor(),
            Outcome::Success,
            message,
        );
        let event = event.integration(integration).object("integration", integration);
        audit::record(&mut tx, &event.detail("emergency", emergency)).await?;
        tx.commit().await?;
        let begun = self.peers.rotate_client_key(tenant, integration, emergency).await?;
        let integration = Some(self.get(tenant, integration).await?);
        Ok(v1::RotateClientKeyResponse { integration, begun })
    }
}

/// The keys of an integration, if it has any.
pub(super) fn shown(of: IntegrationId, rotations: &[Rotation], keys: &[Key]) -> Option<v1::ClientKeys> {
    let rotation = rotations.iter().find(|r| r.integration_id == of)?;
    let keys = keys.iter().filter(|key| key.integration_id == of).map(|key| {
        let state = match key.state.as_str() {
            "next" => v1::ClientKeyState::Next,
            "signing" => v1::ClientKeyState::Signing,
            "unproven" => v1::ClientKeyState::Unproven,
            "old" => v1::ClientKeyState::Old,
            _ => v1::ClientKeyState::Unspecified,
        };
        v1::ClientKey {
            kid: key.kid.clone(),
            state: state.into(),
            created_at: Some(convert::timestamp(key.created_at)),
        }
    });
    let step = match rotation.step.as_str() {
        "idle" => v1::ClientKeyStep::Idle,
        "published" => v1::ClientKeyStep::Published,
        "activated" => v1::ClientKeyStep::Activated,
        "emergency" => v1::ClientKeyStep::Emergency,
        _ => v1::ClientKeyStep::Unspecified,
    };
    Some(v1::ClientKeys {
        keys: keys.collect(),
        step: step.into(),
        next_step_at: rotation.due_at.map(convert::timestamp),
        last_error: rotation.last_error.clone().unwrap_or_default(),
    })
}

/// What a person should know of a key that the directory does not accept.
pub(super) fn warning(of: &v1::ClientKeys) -> Option<v1::ConnectionWarning> {
    (!of.last_error.is_empty()).then(|| v1::ConnectionWarning {
        reason: "client_key_unproven".to_owned(),
        message: if of.step() == v1::ClientKeyStep::Emergency {
            format!(
                "Okta does not accept our new key yet, all work there waits; it is tried again: {}",
                of.last_error
            )
        } else {
            format!(
                "our next key could not be proven, the old one stays in use; it is tried again: {}",
                of.last_error
            )
        },
    })
}
