//! What the build script refuses, shown to the very function that it calls.

#![expect(clippy::unwrap_used, reason = "a helper of the tests")]

#[path = "../build/access.rs"]
mod access;

use std::path::Path;

const FINE: &str = "option (parapet.v1.access) = { any_of: [ROLE_VIEWER] };";

/// Whether a proto whose only RPC has this body builds, and if not, why.
fn builds(body: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let proto = format!(
        r#"syntax = "proto3"; package parapet.v1; import "parapet/v1/access.proto";
           message Thing {{}} service ThingService {{ rpc GetThing(Thing) returns (Thing) {{ {body} }} }}"#
    );
    std::fs::write(dir.path().join("thing.proto"), proto).unwrap();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut compiler = protox::Compiler::new([dir.path(), &ours]).unwrap();
    compiler.include_imports(true).open_file("thing.proto").unwrap();
    access::every_public_rpc_says_who_may_call_it(&compiler.encode_file_descriptor_set())
        .map_err(|e| format!("{e:#}"))
}

#[test]
fn a_public_rpc_that_does_not_say_who_may_call_it_does_not_build() {
    assert_eq!(builds(FINE), Ok(()), "control");
    let refused = builds("").unwrap_err();
    assert!(refused.contains("parapet.v1.ThingService.GetThing"), "{refused}");
    for empty in [
        "option (parapet.v1.access) = {};",
        "option (parapet.v1.access) = { installation: true };",
        "option (parapet.v1.access) = { any_of: [ROLE_UNSPECIFIED] };",
        "option (parapet.v1.access) = { any_of: [ROLE_OPERATOR] };",
    ] {
        assert!(builds(empty).is_err(), "{empty}");
    }
    assert_eq!(
        builds(&FINE.replace("ROLE_VIEWER", "ROLE_OPERATOR").replace("] }", "] installation: true }")),
        Ok(())
    );
}
