//! Texts made of the command line's own description: completions for shells, the manual page.

use std::fmt::Write;

use clap::{Arg, Command};

use crate::cli::Shell;
use crate::settings::variables;

/// What `shell` needs to complete our command line.
pub fn completions(cli: &Command, shell: Shell) -> String {
    match shell {
        Shell::Bash => bash(cli),
        Shell::Zsh => zsh(cli),
        Shell::Fish => fish(cli),
    }
}

/// The first line of what it does.
fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// Its options: name, help, and whether a value follows.
fn options(command: &Command) -> impl Iterator<Item = (&str, String, bool)> {
    command.get_arguments().filter_map(|arg| Some((arg.get_long()?, help(arg), arg.get_action().takes_values())))
}

fn help(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

/// The words that it takes, if these are few.
fn words(cli: &Command, command: &Command) -> Vec<String> {
    let named = command.get_positionals().flat_map(Arg::get_possible_values);
    let mut words: Vec<String> = named.map(|value| value.get_name().to_owned()).collect();
    if command.get_name() == "help" {
        words.extend(cli.get_subcommands().map(|command| command.get_name().to_owned()));
        words.push("env".to_owned());
    }
    words
}

/// Whether it takes names of files or of programs.
fn takes_files(command: &Command) -> bool {
    ["run", "check", "render"].contains(&command.get_name())
}

fn bash(cli: &Command) -> String {
    let names: Vec<&str> = cli.get_subcommands().map(Command::get_name).collect();
    let mut out = "# bash completion for nginit\n_nginit() {\n    local words=\n    \
                   case $COMP_CWORD:${COMP_WORDS[1]} in\n"
        .to_owned();
    let _ = writeln!(out, "    1:*) words='{} --help --version' ;;", names.join(" "));
    for command in cli.get_subcommands() {
        let options = options(command).map(|(name, ..)| format!("--{name}"));
        let all: Vec<String> = words(cli, command).into_iter().chain(options).chain(["--help".to_owned()]).collect();
        let _ = writeln!(out, "    *:{}) words='{}' ;;", command.get_name(), all.join(" "));
    }
    out + "    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))\n}\n\
           complete -o bashdefault -o default -F _nginit nginit\n"
}

/// `text` for a place in single quotes, with `special` characters escaped.
fn quoted(text: &str, special: &[char]) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if special.contains(&c) {
            out.push('\\');
        }
        if c == '\'' { out.push_str("'\\''") } else { out.push(c) }
    }
    out
}

fn zsh(cli: &Command) -> String {
    let mut out = "#compdef nginit\n_nginit() {\n    local -a commands\n    commands=(\n".to_owned();
    for command in cli.get_subcommands() {
        let _ = writeln!(out, "        '{}:{}'", command.get_name(), quoted(&about(command), &[]));
    }
    out.push_str(
        "    )\n    if (( CURRENT == 2 )); then\n        _describe -t commands command commands\n        return\n    fi\n    \
         shift words\n    (( CURRENT-- ))\n    case $words[1] in\n",
    );
    for command in cli.get_subcommands() {
        let _ = write!(out, "    {}) _arguments", command.get_name());
        for (name, help, takes) in options(command) {
            let value = match takes {
                true if name == "out" => ":directory:_files -/",
                true => ":value: ",
                false => "",
            };
            let _ = write!(out, " '--{name}[{}]{value}'", quoted(&help, &['[', ']', ':', '\\']));
        }
        let words = words(cli, command);
        if !words.is_empty() {
            let _ = write!(out, " '1:word:({})'", words.join(" "));
        } else if takes_files(command) {
            out.push_str(" '*:file:_files'");
        }
        out.push_str(" '--help[Print help]' ;;\n");
    }
    out + "    esac\n}\nif [ \"$funcstack[1]\" = _nginit ]; then\n    _nginit \"$@\"\nelse\n    compdef _nginit nginit\nfi\n"
}

fn fish(cli: &Command) -> String {
    let mut out = "# fish completion for nginit\ncomplete -c nginit -f\n".to_owned();
    let text = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    for command in cli.get_subcommands() {
        let (name, about) = (command.get_name(), text(&about(command)));
        let _ = writeln!(out, "complete -c nginit -n __fish_use_subcommand -a {name} -d '{about}'");
        let seen = format!("complete -c nginit -n '__fish_seen_subcommand_from {name}'");
        for (option, help, takes) in options(command) {
            let value = match takes {
                true if option == "out" => " -r -F",
                true => " -x",
                false => "",
            };
            let _ = writeln!(out, "{seen} -l {option}{value} -d '{}'", text(&help));
        }
        let words = words(cli, command);
        if !words.is_empty() {
            let _ = writeln!(out, "{seen} -a '{}'", words.join(" "));
        } else if takes_files(command) {
            let _ = writeln!(out, "{seen} -F");
        }
    }
    out
}

/// The manual page, in the language of man(7).
pub fn man(cli: &mut Command) -> String {
    cli.build();
    let mut out = format!(".TH NGINIT 1 \"\" \"nginit {}\"\n.SH NAME\n", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(out, "nginit \\- {}", roff(env!("CARGO_PKG_DESCRIPTION")));
    let _ = writeln!(out, ".SH SYNOPSIS\n.B nginit\n[\\fICOMMAND\\fR] [\\fIARGUMENT\\fR ...]\n.SH DESCRIPTION");
    let _ = writeln!(out, "{}\n.SH COMMANDS", roff(&about(cli)));
    for command in cli.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let usage = command.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage:").split_whitespace().collect::<Vec<_>>().join(" ");
        let text = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, ".SS {}\n.B {}\n.PP\n{}", command.get_name(), roff(&usage), roff(&text));
        for arg in command.get_arguments().filter(|arg| arg.get_id() != "help") {
            let _ = writeln!(out, ".TP\n.B {}\n{}", roff(&arg.to_string()), roff(&help(arg)));
        }
    }
    out.push_str(".SH ENVIRONMENT\n");
    for variable in variables::all() {
        let _ = writeln!(out, ".TP\n.B {}\n{}", roff(variable.name), roff(variable.meaning));
    }
    out
}

/// `text` as lines that mean nothing to roff; an empty line starts a paragraph.
fn roff(text: &str) -> String {
    let line = |line: &str| match line.replace('\\', "\\e").replace('-', "\\-") {
        line if line.is_empty() => ".PP".to_owned(),
        line if line.starts_with(['.', '\'']) => format!("\\&{line}"),
        line => line,
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn every_command_and_option_is_completed_in_every_shell() {
        let cli = Cli::command();
        for (shell, dashes) in [(Shell::Bash, "--"), (Shell::Zsh, "--"), (Shell::Fish, "-l ")] {
            let text = completions(&cli, shell);
            for command in cli.get_subcommands() {
                let name = command.get_name();
                assert!(text.contains(name), "{shell:?}: {name}");
                for (option, ..) in options(command) {
                    assert!(text.contains(&format!("{dashes}{option}")), "{shell:?}: {name} --{option}");
                }
            }
        }
    }

    #[test]
    fn quotes_of_a_help_text_end_nothing() {
        assert_eq!(quoted("nginx's [x]:", &['[', ']', ':']), r"nginx'\''s \[x\]\:");
        assert_eq!(roff(".a\\b\n\n'c--d"), "\\&.a\\eb\n.PP\n\\&'c\\-\\-d");
    }

    #[test]
    fn the_manual_names_every_command_and_variable() {
        let page = man(&mut Cli::command());
        for name in Cli::command().get_subcommands().map(|command| command.get_name().to_owned()) {
            assert!(name == "help" || page.contains(&format!(".SS {name}\n.B nginit {name}")), "{name}\n{page}");
        }
        for variable in variables::all() {
            assert!(page.contains(&format!(".B {}\n", variable.name)), "{}", variable.name);
        }
        let mut requests = page.lines().filter(|line| line.starts_with(['.', '\'']));
        let known = [".TH ", ".SH ", ".SS ", ".B ", ".PP", ".TP"];
        assert!(requests.all(|line| known.iter().any(|request| line.starts_with(request))), "{page}");
    }
}
