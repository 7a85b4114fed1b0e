//! Client assertions: JWTs signed with the private key of a registered certificate (entra.md §2.2).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Tenant;
use super::settings::App;
use crate::tokens::numeric_date;
use crate::wire::Request;
use crate::world::World;

/// Checks thumbprint, signature, claims and that the assertion was not used before; the error is the reason to give.
pub fn check(
    world: &World,
    request: &Request,
    tenant: &Tenant,
    app: &App,
    jwt: &str,
) -> Result<(), &'static str> {
    let head = jwt.split('.').next().and_then(|head| URL_SAFE_NO_PAD.decode(head).ok());
    let head: Value =
        head.and_then(|head| serde_json::from_slice(&head).ok()).ok_or("The assertion is malformed.")?;
    let text = |name: &str| head.get(name).and_then(Value::as_str);
    let algorithm = match text("alg") {
        Some("PS256") => Algorithm::PS256,
        Some("RS256") => Algorithm::RS256,
        _ => return Err("The algorithm is not supported."),
    };
    let key = app.certificates.iter().find_map(|pem| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let print = |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, &der));
        // Some clients leave the padding on.
        let is =
            |name: &str, print: &str| text(name).is_some_and(|given| given.trim_end_matches('=') == print);
        let matches =
            is("x5t#S256", &print(&digest::SHA256)) || is("x5t", &print(&digest::SHA1_FOR_LEGACY_USE_ONLY));
        if !matches {
            return None;
        }
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        Some(DecodingKey::from_rsa_der(&certificate.public_key().subject_public_key.data))
    });
    let key = key.ok_or("The key was not found.")?;

    let mut validation = Validation::new(algorithm);
    // The simulator has its own clock and checks times itself.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Value>(jwt, &key, &validation)
        .map_err(|_| "The signature is invalid.")?
        .claims;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let number = |name: &str| numeric_date(&claims, name);
    if text("iss") != Some(&app.client_id) || text("sub") != Some(&app.client_id) {
        return Err("The issuer or subject is not the application.");
    }
    let id = &tenant.settings.tenant_id;
    let own_path = |tenant: &str| request.link(&format!("/{tenant}/oauth2/v2.0/token"));
    let audience = text("aud").unwrap_or_default();
    let by_domain = tenant.settings.domains.iter().any(|d| audience == own_path(&d.name));
    if audience != own_path(id) && !by_domain {
        return Err("The audience is not the token endpoint.");
    }
    let now = world.now().unix_timestamp();
    let Some(expires) = number("exp").filter(|exp| *exp > now) else {
        return Err("The assertion is expired.");
    };
    if number("nbf").is_some_and(|not_before| not_before > now + 300) {
        return Err("The assertion is not valid yet.");
    }
    let jti = text("jti").ok_or("The assertion has no jti.")?;
    if world.replayed(&format!("{id}/{}/{jti}", app.client_id), expires) {
        return Err("The assertion was used before.");
    }
    Ok(())
}
