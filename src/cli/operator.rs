//! What every operations command is told: which arbiters, which group, for how long to wait. In layers, as the daemons'
//! options are: the command line, the environment, `[operator]` in the file of `--config`, the defaults.
//!
//! Deliberately in no file and no environment: whom an emergency act is upon, and the words that accept what it may cost
//! (`--replica`, `--accept-data-loss`, `--fenced`, …). They are said each time.

use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};
use cutover_arbiter::client::{ArbiterClient, ClientOptions};
use cutover_arbiter::record::GroupName;
use serde::{Deserialize, Serialize};

use super::config::{self, Settings};
use super::config_value::{Span, list};
use super::failure::{ExitCode, Failure};
use super::group::{DevFile, Group};

/// A command's help, and what is said of layers at the end of each.
macro_rules! help {
    ($text:literal) => {
        concat!(
            $text,
            "\n\nEvery option with an environment variable is also a key of the TOML file given with --config: those of \
            the group in [operator], the command's own in the section of its name. The command line wins over the \
            environment, the environment over the file. What names no variable is said each time, on purpose."
        )
    };
}
pub(super) use help;

/// The options that all operations commands share; each is a flag, an environment variable and a key of `[operator]`.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct OperatorSettings {
    /// The arbiters, host:port each, separated by commas.
    #[arg(long, env = "CUTOVER_ARBITERS", value_delimiter = ',', value_name = "HOST:PORT,...")]
    #[serde(deserialize_with = "list")]
    pub arbiters: Option<Vec<String>>,
    /// The group's name.
    #[arg(long, env = "CUTOVER_GROUP", value_name = "NAME")]
    pub group: Option<GroupName>,
    /// The directory of a group made by `cutover dev`; takes arbiters and group from its dev.json.
    #[arg(long, env = "CUTOVER_DEV_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// How long to wait for arbiters and replicas. [default: 5s]
    #[arg(long, env = "CUTOVER_TIMEOUT", value_name = "TIME")]
    pub timeout: Option<Span>,
}

impl Settings for OperatorSettings {
    const SECTION: &'static str = "operator";

    fn defaults() -> Self {
        Self { timeout: Some(Span(Duration::from_secs(5))), ..Self::default() }
    }
}

/// Which group, and who knows of it.
#[derive(Debug, Clone, Default)]
pub struct GroupArgs {
    config: Option<PathBuf>,
    given: OperatorSettings,
    /// `--data` stands on the command line: it is nearer than a group that is named elsewhere.
    data_is_typed: bool,
}

#[derive(clap::Args)]
struct Given {
    /// TOML file; its section [operator] is read, and that of the command's name.
    #[arg(long, env = "CUTOVER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: OperatorSettings,
}

impl clap::Args for GroupArgs {
    fn augment_args(command: Command) -> Command {
        Given::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Given::augment_args_for_update(command)
    }
}

impl FromArgMatches for GroupArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let typed = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        let data_is_typed = typed("data");
        let (arbiters, group) = (typed("arbiters"), typed("group"));
        let Given { config, mut settings } = Given::from_arg_matches(matches)?;
        if data_is_typed {
            settings.arbiters = settings.arbiters.filter(|_| arbiters);
            settings.group = settings.group.filter(|_| group);
        }
        Ok(Self { config, given: settings, data_is_typed })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl GroupArgs {
    /// The command's own options: what was given, over its section of the file, over the defaults.
    ///
    /// # Errors
    /// Exit code 3 when the file is not what it should be.
    pub fn own<S: Settings>(&self, given: &S) -> Result<S, Failure> {
        Ok(config::layers(given, self.config.as_deref())?.settings)
    }

    /// Makes sense of the arguments.
    ///
    /// # Errors
    /// Exit code 2 when something is missing, 3 when the file or dev.json is not what it should be.
    pub fn open(&self) -> Result<Group, Failure> {
        let (arbiters, name) = self.resolve()?;
        let timeout = self.own(&self.given)?.timeout.map_or(Duration::ZERO, |span| span.0);
        let options = ClientOptions { arbiters, name: String::from("cutover"), ..ClientOptions::default() };
        Ok(Group { name, arbiters: ArbiterClient::new(options), timeout })
    }

    /// The http addresses of the replicas that dev.json names; none without one.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn replicas(&self) -> Result<Vec<String>, Failure> {
        let dev = self.nearest()?.data.as_deref().map(DevFile::read).transpose()?;
        Ok(dev.map(|dev| dev.replicas).unwrap_or_default())
    }

    /// The arbiters' addresses and the group's name.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn resolve(&self) -> Result<(Vec<String>, GroupName), Failure> {
        let settings = self.nearest()?;
        let dev = settings.data.as_deref().map(DevFile::read).transpose()?;
        let arbiters = settings.arbiters.filter(|arbiters| !arbiters.is_empty());
        let arbiters = arbiters.or_else(|| dev.as_ref().map(|dev| dev.arbiters.clone())).unwrap_or_default();
        if arbiters.is_empty() {
            return Err(Failure::new(
                ExitCode::Usage,
                "which arbiters? give --arbiters host:port,host:port,... (or CUTOVER_ARBITERS), or --data DIR of a dev group",
            ));
        }
        let name = settings.group.or(dev.map(|dev| dev.group)).ok_or_else(|| {
            Failure::new(
                ExitCode::Usage,
                "which group? give --group NAME (or CUTOVER_GROUP), or --data DIR of a dev group",
            )
        })?;
        Ok((arbiters, name))
    }

    /// All layers in one. A directory of a dev group and a group's name with its arbiters are two ways to say the same:
    /// the one that stands nearer is meant, and nothing of the other is mixed in.
    fn nearest(&self) -> Result<OperatorSettings, Failure> {
        let mut all = self.own(&self.given)?;
        let given = &self.given;
        let data_is_nearer = given.data.is_some() && given.arbiters.is_none() && given.group.is_none();
        if self.data_is_typed || data_is_nearer {
            all.arbiters.clone_from(&given.arbiters);
            all.group.clone_from(&given.group);
        } else if all.arbiters.is_some() || all.group.is_some() {
            // A group that is named by half is not completed from a directory: what is missing is asked for.
            all.data = None;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What this command line, and these settings as if they stood in the environment, come to with this file.
    fn nearest(typed: &[&str], environment: OperatorSettings, file: &str) -> OperatorSettings {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let command = <GroupArgs as clap::Args>::augment_args(Command::new("x").no_binary_name(true))
            .mut_args(|argument| argument.env(None::<&'static str>));
        let mut args = GroupArgs::from_arg_matches(&command.get_matches_from(typed)).unwrap();
        args.config = Some(path.path().to_owned());
        if !args.data_is_typed {
            args.given.arbiters = args.given.arbiters.or(environment.arbiters);
            args.given.group = args.given.group.or(environment.group);
            args.given.data = args.given.data.or(environment.data);
        }
        args.nearest().unwrap()
    }

    fn named() -> OperatorSettings {
        let arbiters = Some(vec!["env:1".into()]);
        OperatorSettings { arbiters, group: Some("orders".parse().unwrap()), ..OperatorSettings::default() }
    }

    #[test]
    fn missing_arguments_are_named() {
        let with = |given| GroupArgs { given, ..GroupArgs::default() };
        let failure = with(OperatorSettings::default()).resolve().unwrap_err();
        assert_eq!(failure.code, ExitCode::Usage);
        assert!(failure.message.contains("--arbiters"), "{failure}");
        let some = OperatorSettings { arbiters: Some(vec!["x:1".into()]), ..OperatorSettings::default() };
        assert!(with(some).resolve().unwrap_err().message.contains("--group"));
        let nowhere = OperatorSettings { data: Some("/nonexistent".into()), ..OperatorSettings::default() };
        assert_eq!(with(nowhere).resolve().unwrap_err().code, ExitCode::Configuration);
    }

    #[test]
    fn a_directory_on_the_command_line_is_nearer_than_a_group_that_is_named_elsewhere() {
        let file = "[operator]\narbiters = [\"file:1\"]\ngroup = \"other\"\ntimeout = \"9s\"\n";
        let all = nearest(&["--data", "/dev-group"], named(), file);
        assert_eq!((all.arbiters, all.group), (None, None));
        assert_eq!(all.data.as_deref(), Some(Path::new("/dev-group")));
        assert_eq!(all.timeout, Some(Span(Duration::from_secs(9))));
    }

    #[test]
    fn a_directory_left_in_the_environment_or_the_file_never_mixes_with_a_group_that_is_named() {
        let lying = OperatorSettings { data: Some("/dev-group".into()), ..OperatorSettings::default() };
        let all = nearest(&["--arbiters", "a:1,b:1", "--group", "orders"], lying.clone(), "");
        assert_eq!(all.data, None);
        assert_eq!(all.arbiters.unwrap(), ["a:1", "b:1"]);
        // Nor with one that is named by half: what is missing is asked for.
        let half = nearest(&["--arbiters", "a:1,b:1"], lying.clone(), "");
        assert_eq!((half.group, half.data), (None, None));
        assert_eq!(nearest(&[], named(), "[operator]\ndata = \"/dev-group\"\n").data, None);
        let nearer = nearest(&[], lying, "[operator]\narbiters = \"a:1\"\ngroup = \"orders\"\n");
        assert_eq!((nearer.arbiters, nearer.data), (None, Some("/dev-group".into())));
    }
}
