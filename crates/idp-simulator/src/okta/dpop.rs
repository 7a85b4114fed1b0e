//! DPoP proofs (RFC 9449; okta.md §1.2).

use super::Org;
use super::jwt::{Jwt, sha256, thumbprint};
use crate::wire::{self, Request};
use crate::world::World;

/// Why a proof is refused.
pub enum Refused {
    /// It has no nonce in force.
    Nonce,
    /// It is wrong; in Okta's words.
    Proof(&'static str),
}

/// Oldest proof accepted, in seconds.
const OLDEST: i64 = 300;

/// Checks the proof of a request; gives the thumbprint of its key. `token` is the access token it must belong to.
pub fn check(
    world: &World,
    org: &Org,
    request: &Request,
    nonce_needed: bool,
    token: Option<&str>,
) -> Result<String, Refused> {
    let wrong = |text| Err(Refused::Proof(text));
    if request.headers.get_all("dpop").iter().count() > 1 {
        return wrong("Multiple DPoP proof JWT headers are not allowed.");
    }
    let Some(text) = request.header("dpop") else {
        return wrong("The DPoP proof JWT header is missing.");
    };
    let Some(proof) = Jwt::parse(text) else { return wrong("The DPoP proof JWT cannot be parsed.") };
    if proof.head("typ") != Some("dpop+jwt") {
        return wrong("The 'typ' claim in the DPoP proof JWT header must be 'dpop+jwt'.");
    }
    if proof.algorithm().is_none() {
        return wrong("The DPoP proof JWT signature algorithm is invalid.");
    }
    let key = proof.header.get("jwk").filter(|key| key.get("d").is_none());
    let Some(print) = key.and_then(thumbprint) else {
        return wrong("The DPoP proof JWT header does not contain a valid public key.");
    };
    if !key.is_some_and(|key| proof.signed_by(key)) {
        return wrong("The DPoP proof JWT signature is invalid.");
    }
    if proof.claim("htm") != Some(request.method.as_str()) {
        return wrong("The 'htm' claim in the DPoP proof JWT is invalid.");
    }
    // Clients differ in what they percent-encode in a path (`@` of a login), so it is compared decoded.
    let target = wire::decode(&request.link(&request.path));
    if proof.claim("htu").map(wire::decode) != Some(target) {
        return wrong("The 'htu' claim in the DPoP proof JWT is invalid.");
    }
    let now = world.now().unix_timestamp();
    match proof.number("iat") {
        None => return wrong("The 'iat' claim in the DPoP proof JWT is invalid."),
        // A second of grace: the clocks are read at different moments.
        Some(issued) if issued > now + 1 => return wrong("The DPoP proof JWT is issued in the future."),
        Some(issued) if issued < now - OLDEST => {
            return wrong("The DPoP proof JWT is issued more than five minutes in the past.");
        }
        Some(_) => {}
    }
    let Some(jti) = proof.claim("jti") else {
        return wrong("The 'jti' claim in the DPoP proof JWT is invalid.");
    };
    if token.is_some_and(|token| proof.claim("ath") != Some(&sha256(token))) {
        return wrong("The 'ath' claim in the DPoP proof JWT does not match the access token.");
    }
    if nonce_needed {
        let nonce = proof.claim("nonce");
        if !org.settings.dpop_nonces.iter().any(|valid| Some(valid.as_str()) == nonce) {
            return Err(Refused::Nonce);
        }
    }
    if world.replayed(&format!("dpop/{}/{jti}", org.directory.id), now + OLDEST) {
        return wrong("The DPoP proof JWT has already been used.");
    }
    Ok(print)
}
