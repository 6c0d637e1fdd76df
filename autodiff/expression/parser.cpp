// SPDX-License-Identifier: MIT
#include "autodiff/expression/parser.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>
#include <string_view>

#include "brenier/base/error.hpp"
#include "kernels/base/nearest_name.hpp"

namespace brenier {
namespace {

constexpr int kDeepest = 200;  // nested parentheses, signs and powers; guards the call stack

struct Builtin {
  std::string_view name;
  int arguments;
  Var (*apply)(Var a, Var b);  // of one argument, b is a
};

constexpr Builtin kBuiltins[] = {
    {"sum", 1, [](Var a, Var) { return sum(a); }},
    {"dot", 2, [](Var a, Var b) { return dot(a, b); }},
    {"norm", 1, [](Var a, Var) { return norm(a); }},
    {"logsumexp", 1, [](Var a, Var) { return logsumexp(a); }},
    {"exp", 1, [](Var a, Var) { return exp(a); }},
    {"log", 1, [](Var a, Var) { return log(a); }},
    {"sqrt", 1, [](Var a, Var) { return sqrt(a); }},
    {"abs", 1, [](Var a, Var) { return abs(a); }},
    {"sin", 1, [](Var a, Var) { return sin(a); }},
    {"cos", 1, [](Var a, Var) { return cos(a); }},
    {"tanh", 1, [](Var a, Var) { return tanh(a); }},
    {"softplus", 1, [](Var a, Var) { return softplus(a); }},
    {"sigmoid", 1, [](Var a, Var) { return sigmoid(a); }},
    {"erf", 1, [](Var a, Var) { return erf(a); }},
    {"atan2", 2, [](Var a, Var b) { return atan2(a, b); }},
    {"min", 2, [](Var a, Var b) { return min(a, b); }},
    {"max", 2, [](Var a, Var b) { return max(a, b); }},
    {"where", 3, nullptr},  // read by itself: its first argument is a comparison
};

const Builtin* find_builtin(std::string_view name) {
  for (const Builtin& f : kBuiltins)
    if (f.name == name) return &f;
  return nullptr;
}

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// A value, or the product value * matrix with a scalar value: 0.5*A is read before the vector it multiplies.
struct Operand {
  Var value;
  const Matrix<double>* matrix = nullptr;
};

class Parser {
 public:
  Parser(const std::string& text, Tape& tape, const std::map<std::string, Var>& variables,
         const Parameters& parameters)
      : text_(text), tape_(tape), variables_(variables), parameters_(parameters) {
    for (const auto& [name, parameter] : parameters) check_parameter(name, parameter);
  }

  Var parse() {
    skip_space();
    if (place_ == text_.size()) fail(place_, "the expression is empty: " + expected());
    const Operand whole = sum_of_terms();
    if (place_ < text_.size()) fail_after_value();
    return as_value(whole, 0);
  }

 private:
  std::string expected() const { return "expected a number, a name, a minus sign or '(' here"; }

  std::string pointed(std::size_t place, const std::string& message) const {
    return message + "\n  " + text_ + "\n  " + std::string(place, ' ') + "^ column " +
           std::to_string(place + 1);
  }

  [[noreturn]] void fail(std::size_t place, const std::string& message) const {
    throw ParseError(pointed(place, message), static_cast<int>(place) + 1);
  }

  [[noreturn]] void fail_after_value() const {
    const char c = text_[place_];
    if (c == ')') fail(place_, "this ')' closes nothing: expected an operator or the end");
    if (is_letter(c) || is_digit(c) || c == '(')
      fail(place_, "expected an operator before this; write * for a product");
    if (c == ',')
      fail(place_, "a comma separates the arguments of a function; expected an operator or the end");
    if (c == '<' || c == '>' || c == '=')
      fail(place_, "a comparison is the first argument of where: where(x[0] < 1, a, b)");
    fail(place_, "expected an operator (+ - * / ^) or the end here");
  }

  void check_parameter(const std::string& name, const Parameter& parameter) const {
    bool plain = !name.empty() && is_letter(name[0]);
    for (char c : name) plain = plain && (is_letter(c) || is_digit(c));
    if (!plain)
      throw ValueError("parameter name '" + name + "': use letters, digits and _, with a letter first");
    if (name == "x" || name == "r" || name == "t" || name == "pi" || find_builtin(name))
      throw ValueError("parameter name '" + name + "' is taken by the language: choose another");
    const Matrix<double>& m = parameter.value;
    if (m.empty() || (parameter.kind != Parameter::Kind::matrix && m.cols() != 1) ||
        (parameter.kind == Parameter::Kind::scalar && m.rows() != 1))
      throw ShapeError("parameter '" + name + "' is " + std::to_string(m.rows()) + " x " +
                       std::to_string(m.cols()) +
                       ": a scalar is 1 x 1, a vector n x 1, a matrix m x n, none of them empty");
  }

  void skip_space() {
    while (place_ < text_.size() && std::string_view(" \t\r\n").find(text_[place_]) != std::string_view::npos)
      ++place_;
  }

  bool accept(char c) {
    skip_space();
    if (place_ >= text_.size() || text_[place_] != c) return false;
    ++place_;
    skip_space();
    return true;
  }

  /// Runs an operation of the tape; what it reports gets the place in the text.
  template <class F>
  Operand record(std::size_t place, F&& operation) const {
    Var result;
    try {
      result = operation();
    } catch (const ShapeError& error) {
      throw ShapeError(pointed(place, error.what()));
    }
    double number = 0;
    if (tape_.is_constant(result, &number) && !std::isfinite(number))
      fail(place, "this gives " + std::to_string(number) + ", whatever the argument: check the numbers");
    return {result};
  }

  Var as_value(const Operand& operand, std::size_t place) const {
    if (operand.matrix) fail(place, "a matrix can only multiply a vector on its right: write A*x");
    return operand.value;
  }

  // sum = term (('+' | '-') term)*
  Operand sum_of_terms() {
    const std::size_t start = place_;
    Operand left = term();
    for (;;) {
      const std::size_t at = place_;
      const bool plus = accept('+');
      if (!plus && !accept('-')) return left;
      const std::size_t second = place_;
      const Var a = as_value(left, start), b = as_value(term(), second);
      left = record(at, [&] { return plus ? a + b : a - b; });
    }
  }

  // term = signed (('*' | '/') signed)*
  Operand term() {
    const std::size_t start = place_;
    Operand left = signed_power();
    for (;;) {
      const std::size_t at = place_;
      const bool times = accept('*');
      if (!times && !accept('/')) return left;
      if (times && place_ < text_.size() && text_[place_] == '*')
        fail(place_, "powers are written with ^, not **");
      const std::size_t second = place_;
      const Operand right = signed_power();
      left = times ? product(at, left, right) : quotient(at, left, as_value(right, second), start);
    }
  }

  Operand product(std::size_t at, const Operand& left, const Operand& right) const {
    if (left.matrix && right.matrix)
      fail(at, "a product of two matrices is not available: multiply the vector first, A*(B*x)");
    if (right.matrix) {
      if (left.value.size() != 1) fail(at, "a vector stands to the right of its matrix: write A*x");
      return {record(at, [&] { return left.value * right.value; }).value, right.matrix};
    }
    if (!left.matrix) return record(at, [&] { return left.value * right.value; });
    // A scalar rescales the matrix, and a vector is multiplied; where x has one element the columns tell.
    if (right.value.size() == 1 && left.matrix->cols() != 1)
      return {record(at, [&] { return left.value * right.value; }).value, left.matrix};
    return record(at, [&] { return left.value * matvec(*left.matrix, right.value); });
  }

  Operand quotient(std::size_t at, const Operand& left, Var right, std::size_t start) const {
    if (left.matrix && right.size() != 1) as_value(left, start);
    return {record(at, [&] { return left.value / right; }).value, left.matrix};
  }

  // signed = ('-' | '+') signed | power
  Operand signed_power() {
    if (++depth_ > kDeepest)
      fail(place_, "nested too deeply (more than " + std::to_string(kDeepest) + " levels)");
    Operand result;
    if (accept('-')) {
      result = signed_power();
      result.value = -result.value;
    } else {
      result = accept('+') ? signed_power() : power();
    }
    --depth_;
    return result;
  }

  // power = element ('^' signed)?
  Operand power() {
    const std::size_t start = place_;
    const Operand base = element();
    const std::size_t at = place_;
    if (!accept('^')) return base;
    const std::size_t second = place_;
    const Var a = as_value(base, start), b = as_value(signed_power(), second);
    return record(at, [&] { return pow(a, b); });
  }

  // element = primary ('[' whole number ']')*
  Operand element() {
    const std::size_t start = place_;
    Operand operand = primary();
    while (accept('[')) {
      const std::size_t at = place_;
      const Var vector = as_value(operand, start);
      int index = 0;
      const char* begin = text_.data() + place_;
      const auto [end, status] = std::from_chars(begin, text_.data() + text_.size(), index);
      if (status != std::errc{} || !is_digit(*begin))
        fail(at, "expected an element number here, such as x[0]");
      if (index >= vector.size())
        fail(at, "element " + std::to_string(index) +
                     " does not exist: " + text_.substr(start, at - start - 1) + " has elements 0 to " +
                     std::to_string(vector.size() - 1));
      place_ = static_cast<std::size_t>(end - text_.data());
      if (!accept(']')) fail(place_, "expected ']' here");
      operand = {vector[index]};
    }
    return operand;
  }

  Operand primary() {
    if (place_ >= text_.size()) fail(place_, expected() + ", but the expression ends");
    const char c = text_[place_];
    if (is_digit(c) || c == '.') return number();
    if (is_letter(c)) return name();
    const std::size_t open = place_;
    if (accept('[')) return literal(open);
    if (!accept('(')) {
      if (c == '|') fail(place_, "write abs(...) or norm(...) instead of bars");
      fail(place_, expected());
    }
    const Operand inner = sum_of_terms();
    if (!accept(')')) unclosed(open);
    return inner;
  }

  // literal = '[' sum (',' sum)* ']', a vector of these scalars
  Operand literal(std::size_t open) {
    std::vector<Var> entries;
    do {
      const std::size_t at = place_;
      if (place_ < text_.size() && text_[place_] == ']')
        fail(place_, "expected an entry of the vector here, such as [1, 0]");
      entries.push_back(as_value(sum_of_terms(), at));
      if (entries.back().size() != 1)
        fail(at, "an entry of a vector is a scalar; this has " + std::to_string(entries.back().size()) +
                     " elements");
    } while (accept(','));
    if (!accept(']')) unclosed(open);
    return record(open, [&] { return stacked(entries); });
  }

  /// The vector of scalars: its constants at once, and unit vectors times the others.
  Var stacked(const std::vector<Var>& entries) const {
    if (entries.size() == 1) return entries.front();
    const auto n = static_cast<Index>(entries.size());
    std::vector<double> constants(entries.size(), 0.0);
    for (std::size_t i = 0; i < entries.size(); ++i) tape_.is_constant(entries[i], &constants[i]);
    Var vector = tape_.constant(constants);
    for (Index i = 0; i < n; ++i) {
      const Var entry = entries[static_cast<std::size_t>(i)];
      if (tape_.is_constant(entry)) continue;
      Matrix<double> unit(n, 1);
      unit(i, 0) = 1;
      vector = vector + matvec(unit, entry);
    }
    return vector;
  }

  [[noreturn]] void unclosed(std::size_t open) const {
    const std::string opening(1, text_[open]), closing = opening == "[" ? "']'" : "')'";
    const std::string opened =
        "the '" + opening + "' of column " + std::to_string(open + 1) + " is not closed: expected ";
    if (place_ >= text_.size()) fail(place_, opened + closing + " or an operator here");
    if (text_[place_] == ')' || text_[place_] == ',') fail_after_value();
    fail(place_, opened + closing + " or an operator before this");
  }

  Operand number() {
    const std::size_t start = place_;
    double value = 0;
    const char* begin = text_.data() + place_;
    const auto [end, status] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (status == std::errc::result_out_of_range) fail(start, "this number is out of the range of a double");
    if (status != std::errc{}) fail(start, expected());
    place_ = static_cast<std::size_t>(end - text_.data());
    skip_space();
    return {tape_.constant(value)};
  }

  Operand name() {
    const std::size_t start = place_;
    while (place_ < text_.size() && (is_letter(text_[place_]) || is_digit(text_[place_]))) ++place_;
    const std::string word = text_.substr(start, place_ - start);
    skip_space();
    const bool called = place_ < text_.size() && text_[place_] == '(';
    if (const Builtin* f = find_builtin(word)) {
      if (!called) fail(place_, "expected '(' after the function " + word);
      return f->apply ? call(*f, start) : choice(start);
    }
    const auto variable = variables_.find(word);
    const auto parameter = parameters_.find(word);
    const bool known = variable != variables_.end() || parameter != parameters_.end() || word == "pi";
    if (!known) fail(start, unknown(word, called));
    if (called) fail(place_, "'" + word + "' is not a function; write " + word + "*(...) for a product");
    if (variable != variables_.end()) return {variable->second};
    if (parameter == parameters_.end()) return {tape_.constant(std::numbers::pi)};
    const Matrix<double>& value = parameter->second.value;
    if (parameter->second.kind == Parameter::Kind::matrix) return {tape_.constant(1.0), &value};
    return {tape_.constant(value.elements())};
  }

  // choice = 'where' '(' sum ('<' | '>' | '<=' | '>=') sum ',' sum ',' sum ')'
  Operand choice(std::size_t start) {
    const std::size_t open = place_;
    accept('(');
    const std::size_t first = place_;
    const Var a = as_value(sum_of_terms(), first);
    const std::size_t at = place_;
    const bool below = accept('<');
    if (!below && !accept('>'))
      fail(at, "expected a comparison here, as in where(x[0] < 1, a, b): < > <= or >=");
    // <= and >= are one token.
    const bool equal = text_[at + 1] == '=' && place_ == at + 1 && accept('=');
    const std::size_t second = place_;
    const Var b = as_value(sum_of_terms(), second);
    for (const Var side : {a, b}) {
      if (side.size() != 1)
        fail(at, "a comparison is between scalars; this has " + std::to_string(side.size()) + " elements");
    }
    std::vector<Var> branches;
    while (accept(',')) {
      const std::size_t place = place_;
      branches.push_back(as_value(sum_of_terms(), place));
    }
    if (!accept(')')) unclosed(open);
    if (branches.size() != 2)
      fail(start, "where takes a comparison and 2 more arguments, not " + std::to_string(branches.size()));
    return record(start, [&] {
      const Var smaller = below != equal ? less(a, b) : less(b, a);  // a <= b where not b < a
      const Var holds = equal ? 1.0 - smaller : smaller;
      return where(holds, branches[0], branches[1]);
    });
  }

  Operand call(const Builtin& f, std::size_t start) {
    const std::size_t open = place_;
    accept('(');
    std::vector<Var> arguments;
    if (place_ < text_.size() && text_[place_] != ')') {
      do {
        const std::size_t at = place_;
        arguments.push_back(as_value(sum_of_terms(), at));
      } while (accept(','));
    }
    if (!accept(')')) unclosed(open);
    if (static_cast<int>(arguments.size()) != f.arguments)
      fail(start, std::string(f.name) + " takes " + std::to_string(f.arguments) +
                      (f.arguments == 1 ? " argument" : " arguments") + ", not " +
                      std::to_string(arguments.size()));
    return record(start, [&] { return f.apply(arguments.front(), arguments.back()); });
  }

  std::string unknown(const std::string& word, bool called) const {
    std::vector<std::string> names;
    if (!called) {
      for (const auto& [name, value] : variables_) names.push_back(name);
      for (const auto& [name, value] : parameters_) names.push_back(name);
      names.emplace_back("pi");
    }
    const std::size_t values = names.size();
    for (const Builtin& f : kBuiltins) names.emplace_back(f.name);
    const std::string nearest = nearest_name(word, names, std::max<std::size_t>(1, word.size() / 2));
    std::string list;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (called || i < values) list += (list.empty() ? "" : ", ") + names[i];
    }
    const std::string kind = called ? "function" : "name";
    return "unknown " + kind + " '" + word + "'" +
           (nearest.empty() ? "" : ": did you mean '" + nearest + "'?") +
           (called ? " The functions are " : " The names here are ") + list;
  }

  const std::string& text_;
  Tape& tape_;
  const std::map<std::string, Var>& variables_;
  const Parameters& parameters_;
  std::size_t place_ = 0;
  int depth_ = 0;
};

}  // namespace

Var parse_expression(const std::string& text, Tape& tape, const std::map<std::string, Var>& variables,
                     const Parameters& parameters) {
  return Parser(text, tape, variables, parameters).parse();
}

}  // namespace brenier
