//! `parapet integration providers`: the catalogue, to read before anything is set up at the provider.

use shared::wire::v1 as api;

use super::output;
use crate::cli::Global;

/// Prints the catalogue as text, or as JSON.
pub fn print(global: &Global, providers: &[api::Provider]) -> anyhow::Result<()> {
    if global.json {
        println!("{}", serde_json::Value::Array(output::rows("Provider", providers)?));
        return Ok(());
    }
    for provider in providers {
        println!("{}{}", provider.name, if provider.entitled { "" } else { " (not in your package)" });
        section("steps", &provider.setup);
        section("to allow", &provider.allow);
        for capability in &provider.capabilities {
            let name = capability.capability().as_str_name().trim_start_matches("CAPABILITY_").to_lowercase();
            let undo = if capability.reversible { "; can be undone" } else { "" };
            println!("  {name}: {}{undo}", capability.description);
            for permission in &capability.permissions {
                let (kind, id) = (
                    if permission.optional { "optional" } else { "needs" },
                    if permission.id.is_empty() { String::new() } else { format!(" ({})", permission.id) },
                );
                println!("    {kind} {}{id}: {}", permission.name, permission.purpose);
            }
            for condition in &capability.conditions {
                println!("    needs {condition}");
            }
            for warning in &capability.warnings {
                println!("    note: {warning}");
            }
        }
        println!();
    }
    Ok(())
}

fn section(title: &str, lines: &[String]) {
    println!("  {title}:");
    for line in lines {
        println!("    - {line}");
    }
}
