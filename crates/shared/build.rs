//! Compiles every proto of the workspace, without protoc, and refuses a public RPC that does not say who may call it.

use std::{env, fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context, bail};
use prost::Message;
use prost_reflect::{DescriptorPool, Value};

#[path = "build/access.rs"]
mod access;

// Messages with a write-only secret: `wire.rs` writes their Debug by hand, without it.
const WITH_SECRETS: [&str; 4] =
    ["parapet.v1.EntraCredentials", "parapet.v1.FeedRecord", "parapet.v1.SecretHash", "parapet.v1.Cookie"];

fn main() -> anyhow::Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    // Embedded by `sqlx::migrate!`, which does not notice a new file by itself.
    println!("cargo:rerun-if-changed={}", root.join("../migrations").display());
    let mut files = Vec::new();
    for package in ["parapet/v1", "parapet/internal/v1", "parapet/events/v1"] {
        for entry in fs::read_dir(root.join(package))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "proto") {
                println!("cargo:rerun-if-changed={}", path.display());
                files.push(path);
            }
        }
    }
    files.sort();
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    // The encoded set keeps custom options, which prost's own types drop; reflection and the role check read it.
    let encoded = compiler.encode_file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), &encoded)?;
    access::every_public_rpc_says_who_may_call_it(&encoded)?;
    fs::write(out.join("callers.rs"), callers(&encoded)?)?;
    let set = prost_types::FileDescriptorSet::decode(encoded.as_slice())?;
    tonic_prost_build::configure().bytes(".parapet.events").skip_debug(WITH_SECRETS).compile_fds(set)?;
    Ok(())
}

// INVARIANT: an RPC between services without `(parapet.internal.v1.callers)` does not build.
fn callers(encoded: &[u8]) -> anyhow::Result<String> {
    let pool = DescriptorPool::decode(encoded)?;
    let option = pool
        .get_extension_by_name("parapet.internal.v1.callers")
        .context("proto option parapet.internal.v1.callers is missing")?;
    let mut table = String::from(
        "/// Which services call which method between services, by `package.Service/Method`.\n\
         pub const CALLERS: &[(&str, &[&str])] = &[\n",
    );
    for service in pool.services().filter(|s| s.parent_file().package_name() == "parapet.internal.v1") {
        for method in service.methods() {
            let options = method.options();
            let value = options.get_extension(&option);
            let names: Vec<&str> =
                value.as_list().unwrap_or_default().iter().filter_map(Value::as_str).collect();
            if names.is_empty() {
                bail!("{}: say who calls it with option (parapet.internal.v1.callers)", method.full_name());
            }
            writeln!(table, "    (\"{}/{}\", &{names:?}),", service.full_name(), method.name())?;
        }
    }
    table.push_str("];\n");
    Ok(table)
}
