//! The configuration file: limits, policy and log level, read at the start and at SIGHUP.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use tracing::level_filters::LevelFilter;

use super::limits::{Limits, Machine, Wanted};
use super::metrics;
use super::{Failure, Settings};
use crate::policy::config::broken::not_understood;
use crate::policy::config::{ConfigError, Policy, Raw, System, line_of};

/// A whole configuration.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug` or `trace`; the command line's comes first.
    log: Option<Spanned<String>>,
    limits: Wanted,
    metrics: Option<Spanned<metrics::Wanted>>,
    policy: Raw,
    /// Whoever may change the file may have anything: told, if that is not root alone.
    #[serde(skip)]
    pub warning: Option<String>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong, with the file's name and the place in it.
    pub fn read(path: &Path) -> Result<(Config, Policy), String> {
        let bad = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        let mut file = fs::File::open(path).map_err(|error| bad(&error))?;
        let (mut bytes, there) = (Vec::new(), file.metadata().map_err(|error| bad(&error))?);
        file.read_to_end(&mut bytes).map_err(|error| bad(&error))?;
        let text = String::from_utf8(bytes).map_err(|_| bad(&"it is not text (UTF-8)"))?;
        // FILE:LINE, as compilers have it.
        let wrong = |error: ConfigError| format!("{}:{error}", path.display());
        let mut config = Config::parse(&text).map_err(wrong)?;
        let policy = Policy::new(&config.policy, &text, &System).map_err(wrong)?;
        if there.uid() != 0 || there.mode() & 0o022 != 0 {
            let cure = "chown root, chmod go-w";
            config.warning =
                Some(bad(&format!("others than root may change it, and so grant themselves anything: {cure}")));
        }
        Ok((config, policy))
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| not_understood(text, &error))?;
        let at = |place: usize, what| ConfigError { line: line_of(text, place), rule: None, what };
        if let Some(log) = &config.log {
            config.level().map_err(|why| at(log.span().start, why))?;
        }
        if let Some(metrics) = &config.metrics {
            metrics.get_ref().settle().map_err(|why| at(metrics.span().start, why))?;
        }
        Ok(config)
    }

    /// The log level asked for here.
    ///
    /// # Errors
    /// A word that is none.
    pub fn level(&self) -> Result<Option<LevelFilter>, String> {
        let Some(word) = self.log.as_ref().map(Spanned::get_ref) else {
            return Ok(None);
        };
        let level = word.parse().map_err(|_| format!("log = {word:?}: use error, warn, info, debug or trace"))?;
        Ok(Some(level))
    }
}

/// Any text is a configuration, or refused with the line that is wrong.
#[cfg(fuzzing)]
pub fn fuzz(text: &str) {
    let judge = |error: &ConfigError| {
        assert!((1..=text.lines().count().max(1) + 1).contains(&error.line), "line {}", error.line);
        assert!(!error.to_string().is_empty());
    };
    let Ok(config) = Config::parse(text).inspect_err(judge) else { return };
    let _ = Policy::new(&config.policy, text, &System).inspect_err(judge);
    let machine = Machine { memory: 1 << 30, descriptors: 1 << 16 };
    let _ = Limits::settle(&config.limits, machine);
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
        let settled = Limits::settle(&config.limits, Machine::read()).map_err(|why| Failure::new(1, why));
        let (limits, mut warnings) = settled?;
        warnings.extend(config.warning);
        let metrics = config.metrics.map_or_else(Default::default, Spanned::into_inner).settle().map_err(wrong)?;
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
        assert!(Config::parse("[limits]\nopenz = 5\n").unwrap_err().what.contains("openz"));
        assert!(Config::parse("log = \"loud\"").unwrap_err().what.contains("loud"));
        assert!(Config::parse("[metrics]\nlisten = \"0.0.0.0:80\"").unwrap_err().what.contains("loopback"));
        assert!(Config::parse("[metrics]\nport = 80\n").unwrap_err().what.contains("port"));
        assert!(Config::parse("[limits]\nopens = -1\n").unwrap_err().what.contains("opens"));
    }
}
