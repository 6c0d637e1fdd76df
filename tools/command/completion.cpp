// SPDX-License-Identifier: MIT
// `brenier completion`: what a shell and man(1) know of the command, written from the list of subcommands and keys.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "brenier/version.hpp"
#include "engine/src/config/keys.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"

namespace brenier::app {
namespace {

std::vector<const CLI::App*> subcommands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

/// "--out", "-o": an option's names as they are typed; none for a positional one.
std::vector<std::string> names_of(const CLI::Option& option) {
  std::vector<std::string> out;
  for (const std::string& name : option.get_lnames()) out.push_back("--" + name);
  for (const std::string& name : option.get_snames()) out.push_back("-" + name);
  return out;
}

std::string joined(const std::vector<std::string>& words, const char* between = " ") {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : between) + word;
  return out;
}

void write_bash(const CLI::App& app, std::ostream& out) {
  std::vector<std::string> commands, keys;
  for (const CLI::App* one : subcommands_of(app)) commands.push_back(one->get_name());
  for (const std::string& key : key_names()) keys.push_back(key + "=");
  out << "# bash completion of brenier " << BRENIER_VERSION << ", written by `brenier completion bash`\n"
      << "_brenier() {\n"
         "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} options=\n"
         "  COMPREPLY=()\n"
         "  if ((COMP_CWORD == 1)); then\n"
         "    COMPREPLY=($(compgen -W \""
      << joined(commands)
      << " --help --version\" -- \"$word\"))\n"
         "    return\n"
         "  fi\n"
         "  case $before in\n"
         "    --set | --sweep)\n"
         "      COMPREPLY=($(compgen -W \""
      << joined(keys)
      << "\" -- \"$word\"))\n"
         "      compopt -o nospace 2> /dev/null\n"
         "      return ;;\n"
         "    --by)\n"
         "      COMPREPLY=($(compgen -W \""
      << joined(key_names())
      << "\" -- \"$word\"))\n"
         "      return ;;\n"
         "    --device)\n"
         "      COMPREPLY=($(compgen -W \"auto cpu ref cuda\" -- \"$word\"))\n"
         "      return ;;\n"
         "  esac\n"
         "  case ${COMP_WORDS[1]} in\n";
  for (const CLI::App* one : subcommands_of(app)) {
    std::vector<std::string> names;
    for (const CLI::Option* option : one->get_options()) {
      for (const std::string& name : names_of(*option)) names.push_back(name);
    }
    out << "    " << one->get_name() << ") options=\"" << joined(names) << "\" ;;\n";
  }
  out << "  esac\n"
         "  if [[ $word == -* ]]; then\n"
         "    COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
         "  else\n"
         "    COMPREPLY=($(compgen -f -- \"$word\"))\n"
         "    compopt -o filenames 2> /dev/null\n"
         "  fi\n"
         "}\n"
         "complete -F _brenier brenier\n";
}

/// The same in zsh, which takes the functions of bash.
void write_zsh(const CLI::App& app, std::ostream& out) {
  out << "#compdef brenier\nautoload -Uz compinit bashcompinit\n(( $+functions[compdef] )) || "
         "compinit\nbashcompinit\n";
  write_bash(app, out);
}

/// A word for fish, in quotes.
std::string fish(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\\' || c == '\'') out += '\\';
    out += c;
  }
  return out + "'";
}

void write_fish(const CLI::App& app, std::ostream& out) {
  out << "# fish completion of brenier " << BRENIER_VERSION << ", written by `brenier completion fish`\n";
  std::string keys;
  for (const std::string& key : key_names()) keys += key + "= ";
  for (const CLI::App* one : subcommands_of(app)) {
    const std::string& name = one->get_name();
    out << "complete -c brenier -n __fish_use_subcommand -f -a " << name << " -d "
        << fish(one->get_description()) << "\n";
    for (const CLI::Option* option : one->get_options()) {
      if (names_of(*option).empty()) continue;
      out << "complete -c brenier -n '__fish_seen_subcommand_from " << name << "'";
      for (const std::string& word : option->get_lnames()) out << " -l " << word;
      for (const std::string& word : option->get_snames()) out << " -s " << word;
      if (option->get_items_expected_max() > 0) out << " -r";
      if (option->check_lname("set") || option->check_lname("sweep")) out << " -f -a " << fish(keys);
      out << " -d " << fish(option->get_description()) << "\n";
    }
  }
}

/// Text for troff: no escapes, no requests, hyphens that can be searched for.
std::string troff(const std::string& text) {
  std::string out;
  bool start = true;
  for (const char c : text) {
    if (start && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
    start = c == '\n';
  }
  return out;
}

/// A paragraph with its lines as they are.
void lines(const std::string& text, std::ostream& out) {
  out << ".nf\n" << troff(text) << "\n.fi\n";
}

void write_man(const CLI::App& app, std::ostream& out) {
  out << ".\\\" Written by `brenier completion man`.\n"
      << ".TH BRENIER 1 \"\" \"brenier " << BRENIER_VERSION << "\" \"User Commands\"\n"
      << ".SH NAME\nbrenier \\- Wasserstein gradient flows with input-convex neural networks\n"
      << ".SH SYNOPSIS\n.B brenier\n.I COMMAND\n[\\fIOPTION\\fR]...\n"
      << ".SH DESCRIPTION\n"
      << troff(app.get_description()) << "\n";
  out << ".SH COMMANDS\n";
  for (const CLI::App* one : subcommands_of(app)) {
    std::string arguments;
    for (const CLI::Option* option : one->get_options()) {
      if (!names_of(*option).empty()) continue;
      arguments += " " + (option->get_required() ? option->get_name() : "[" + option->get_name() + "]");
    }
    out << ".SS \"brenier " << troff(one->get_name() + arguments) << "\"\n"
        << troff(one->get_description()) << "\n";
    for (const CLI::Option* option : one->get_options()) {
      const std::vector<std::string> names = names_of(*option);
      const std::string name = names.empty() ? option->get_name() : joined(names, ", ");
      const bool value = !names.empty() && option->get_items_expected_max() > 0;
      out << ".TP\n.B " << troff(name) << (value ? " \\fIVALUE\\fR" : "") << "\n"
          << troff(option->get_description()) << "\n";
    }
  }
  out << ".SH CONFIGURATION\nThe keys of a configuration, in tables. "
         "\\fBbrenier info \\-\\-keys\\fR says what each is for.\n.PP\n";
  std::string table;
  for (const std::string& key : key_names()) {
    const std::size_t dot = key.rfind('.');
    const std::string now = dot == std::string::npos ? "" : key.substr(0, dot);
    if (now != table) out << ".PP\n.B " << troff("[" + now + "]") << "\n";
    out << troff(key.substr(dot == std::string::npos ? 0 : dot + 1)) << "\n";
    table = now;
  }
  out << ".SH EXAMPLES AND EXIT STATUS\n";
  lines(app.get_footer(), out);
}

}  // namespace

Command add_completion(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("completion", "writes the completion of a shell, or the manual page, to the output");
  const auto kind = std::make_shared<std::string>();
  command->add_option("KIND", *kind, "bash, zsh, fish or man")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish", "man"}));
  return {command, [kind, &app](const Console& console) {
            if (*kind == "bash") write_bash(app, console.out);
            if (*kind == "zsh") write_zsh(app, console.out);
            if (*kind == "fish") write_fish(app, console.out);
            if (*kind == "man") write_man(app, console.out);
            return ExitCode::ok;
          }};
}

}  // namespace brenier::app
