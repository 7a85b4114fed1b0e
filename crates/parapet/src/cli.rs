//! What can be typed, and the one place that turns an outcome into an exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::client::Failure;
use crate::data::DataDir;
use crate::{bootstrap, commands, demo, doctor, issuer, login, migrate, stack};

/// Finds out which leaked passwords still work, without locking anyone out, and contains the exposed accounts.
#[derive(Debug, Parser)]
#[command(name = "parapet", version, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line is wrong
  3  the installation cannot be reached, or took too long
  4  not logged in, or not allowed
  5  not found
  6  refused: the request does not fit the present state or the rules
  7  a limit, quota or brake stands in the way";

/// Where help lists what every command understands.
const HEADING: &str = "Options of every command";

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print JSON for programs instead of tables for people
    #[arg(long, global = true, help_heading = HEADING)]
    pub json: bool,
    /// The tenant to act in: its name or id; needed when the caller has several
    #[arg(long, global = true, help_heading = HEADING, env = "PARAPET_TENANT", value_name = "NAME|ID")]
    pub tenant: Option<String>,
    /// Where the local stack keeps everything [default: .parapet, here or in a parent directory]
    #[arg(long, global = true, help_heading = HEADING, env = "PARAPET_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The integration-api to talk to [default: the local stack's]
    #[arg(long, global = true, help_heading = HEADING, env = "PARAPET_API", value_name = "URL")]
    pub api: Option<String>,
    /// A PEM file with the authorities that may vouch for the integration-api
    #[arg(long, global = true, help_heading = HEADING, env = "PARAPET_API_CA", value_name = "FILE")]
    pub api_ca: Option<PathBuf>,
    /// The caller of the local stack to act as, for this command only
    #[arg(long = "as", global = true, help_heading = HEADING, env = "PARAPET_AS", value_name = "CALLER")]
    pub caller: Option<String>,
}

impl Global {
    /// The directory of the local stack.
    pub fn data(&self) -> anyhow::Result<DataDir> {
        DataDir::find(self.data_dir.as_deref())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the local stack: PostgreSQL, RabbitMQ, simulator, token issuer and the five services
    Up(stack::Up),
    /// Stop the local stack
    Down,
    /// Show each process of the local stack, its state and its log file
    Status,
    /// Show the log of a process of the local stack
    Logs(stack::Logs),
    /// Stop the local stack and remove everything it kept
    Clean,
    /// Install the server programs that are missing, or name the command that does
    Setup,
    Doctor(doctor::Doctor),
    /// Bring a database to the newest version; services never do this themselves
    Migrate(migrate::Migrate),
    /// Get an access token and keep it for the other commands
    Login(login::Login),
    /// Create organizations, tenants and packages as a file says; running it again changes nothing
    Bootstrap(bootstrap::Bootstrap),
    #[command(subcommand)]
    Organization(commands::Organization),
    #[command(subcommand)]
    Tenant(commands::Tenant),
    #[command(subcommand)]
    Integration(commands::Integration),
    Overview(commands::Overview),
    #[command(subcommand)]
    Sync(commands::Sync),
    #[command(subcommand)]
    Removal(commands::Removal),
    #[command(subcommand)]
    Identity(commands::Identity),
    /// Import leaked credentials from files
    #[command(subcommand)]
    Feed(commands::Feed),
    #[command(subcommand)]
    Exposure(commands::Exposure),
    Validate(Box<commands::Validate>),
    #[command(subcommand)]
    Validation(commands::Validation),
    Mitigate(Box<commands::Mitigate>),
    #[command(subcommand)]
    Mitigation(commands::Mitigation),
    #[command(subcommand)]
    Approval(commands::Approval),
    #[command(subcommand)]
    Policy(commands::Policy),
    #[command(subcommand)]
    Budget(commands::Budget),
    #[command(subcommand)]
    Attempts(commands::Attempts),
    #[command(subcommand)]
    Audit(commands::Audit),
    #[command(subcommand)]
    Keys(commands::Keys),
    #[command(subcommand)]
    Broker(commands::Broker),
    /// Run the main job on sample feeds, in front of an independent judge
    Demo(demo::Demo),
    /// Print what a shell needs to complete commands: `source <(parapet completion bash)`
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Run the development token issuer
    #[command(hide = true)]
    Issuer(issuer::Args),
}

impl Cli {
    /// Does what was typed.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { global, command } = self;
        match command {
            Command::Up(args) => args.run(&global).await,
            Command::Down => stack::down(&global).await,
            Command::Status => stack::status(&global),
            Command::Logs(args) => args.run(&global).await,
            Command::Clean => stack::clean(&global).await,
            Command::Setup => crate::servers::ensure_all().await,
            Command::Doctor(args) => args.run(&global).await,
            Command::Migrate(args) => args.run(&global).await,
            Command::Login(args) => args.run(&global).await,
            Command::Bootstrap(args) => args.run(&global).await,
            Command::Organization(args) => args.run(&global).await,
            Command::Tenant(args) => args.run(&global).await,
            Command::Integration(args) => args.run(&global).await,
            Command::Overview(args) => args.run(&global).await,
            Command::Sync(args) => args.run(&global).await,
            Command::Removal(args) => args.run(&global).await,
            Command::Identity(args) => args.run(&global).await,
            Command::Feed(args) => args.run(&global).await,
            Command::Exposure(args) => args.run(&global).await,
            Command::Validate(args) => args.run(&global).await,
            Command::Validation(args) => args.run(&global).await,
            Command::Mitigate(args) => args.run(&global).await,
            Command::Mitigation(args) => args.run(&global).await,
            Command::Approval(args) => args.run(&global).await,
            Command::Policy(args) => args.run(&global).await,
            Command::Budget(args) => args.run(&global).await,
            Command::Attempts(args) => args.run(&global).await,
            Command::Audit(args) => args.run(&global).await,
            Command::Keys(args) => args.run(&global).await,
            Command::Broker(args) => args.run(&global).await,
            Command::Demo(args) => args.run(&global).await,
            Command::Completion { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "parapet", &mut std::io::stdout());
                Ok(())
            }
            Command::Issuer(args) => issuer::run(args).await,
        }
    }
}

/// Prints a failure, as JSON when asked, and picks its exit code.
pub fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let failure = Failure::of(error);
    if json {
        eprintln!("{}", failure.json());
    } else {
        eprint!("{failure}");
    }
    ExitCode::from(failure.exit_code())
}

/// Parses the command line and runs it.
pub async fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    match Box::pin(cli.run()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, json),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn every_shell_is_given_completions_that_know_the_commands() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut super::Cli::command(), "parapet", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in ["overview", "integration", "mitigation"] {
                assert!(script.contains(command), "{shell}: {command}");
            }
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
