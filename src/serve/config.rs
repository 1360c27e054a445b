//! The configuration file: limits, policy and log level, read at the start and at SIGHUP.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use tracing::level_filters::LevelFilter;

use super::limits::{Limits, Machine, Wanted};
use super::metrics;
use super::{Failure, Settings};
use crate::policy::config::{Policy, Raw, System};

/// A whole configuration.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug` or `trace`; the command line's comes first.
    pub log: Option<String>,
    pub limits: Wanted,
    metrics: metrics::Wanted,
    policy: Raw,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong, with the file's name and the place in it.
    pub fn read(path: &Path) -> Result<(Config, Policy), String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let config = Config::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let policy = Policy::new(&config.policy, &text, &System);
        // FILE:LINE, as compilers have it.
        Ok((config, policy.map_err(|error| format!("{}:{error}", path.display()))?))
    }

    fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        config.level()?;
        config.metrics.settle()?;
        Ok(config)
    }

    /// The log level asked for here.
    ///
    /// # Errors
    /// A word that is none.
    pub fn level(&self) -> Result<Option<LevelFilter>, String> {
        let Some(word) = &self.log else {
            return Ok(None);
        };
        let level = word.parse().map_err(|_| format!("log = {word:?}: use error, warn, info, debug or trace"))?;
        Ok(Some(level))
    }
}

/// What a configuration and the command line mean on this machine: all that the daemon goes by.
pub struct InForce {
    pub level: LevelFilter,
    pub limits: Limits,
    pub policy: Policy,
    /// Where metrics are served.
    pub metrics: Option<metrics::Place>,
    /// For the log, once there is one.
    pub warnings: Vec<String>,
}

impl InForce {
    /// Reads and judges everything before anything of it is in force.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(settings: &Settings) -> Result<InForce, Failure> {
        let wrong = |why| Failure::new(2, why);
        let read = settings.config.as_deref().map_or_else(|| Ok(Default::default()), Config::read);
        let (config, policy) = read.map_err(wrong)?;
        let level = settings.level.or(config.level().map_err(wrong)?).unwrap_or(LevelFilter::INFO);
        if settings.audit && level < LevelFilter::INFO {
            return Err(wrong("--audit logs at the level info, which is not logged here".into()).cure("use --log info"));
        }
        let (limits, warnings) = Limits::settle(&config.limits, Machine::read()).map_err(|why| Failure::new(1, why))?;
        let metrics = config.metrics.settle().map_err(wrong)?;
        Ok(InForce { level, limits, policy, metrics, warnings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_its_default_and_what_is_unknown_is_refused() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let config = Config::parse("log = \"debug\"\n[limits]\nopens = 5\n").unwrap();
        assert_eq!(config.limits, Wanted { opens: Some(5), ..Wanted::default() });
        assert_eq!(config.level().unwrap(), Some(LevelFilter::DEBUG));
        assert!(Config::parse("[limits]\nopenz = 5\n").unwrap_err().contains("openz"));
        assert!(Config::parse("log = \"loud\"").unwrap_err().contains("loud"));
        assert!(Config::parse("[metrics]\nlisten = \"0.0.0.0:80\"").unwrap_err().contains("loopback"));
        assert!(Config::parse("[metrics]\nport = 80\n").unwrap_err().contains("port"));
        assert!(Config::parse("[limits]\nopens = -1\n").unwrap_err().contains("opens"));
    }
}
