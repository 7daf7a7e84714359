"""The language of Go's templates: expected results are those of the documentation of text/template and of Go itself."""

from typing import Any

import pytest

from ggufkit.exports.go_template import GoTemplateError, Record, Template
from ggufkit.exports.go_template.lexer import quoted

DATA: dict[str, Any] = {
    "Name": "Ada",
    "Empty": "",
    "Zero": 0,
    "Three": 3,
    "Yes": True,
    "Half": 0.5,
    "List": ["a", "b", "c"],
    "None": [],
    "Map": {"y": 2, "x": 1},
    "People": [Record(Name="Bo", Age=3), Record(Name="Cy", Age=5)],
    "Nil": None,
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        # text, trimming, comments
        ("plain } { }}", "plain } { }}"),
        ("a {{ .Name }} b", "a Ada b"),
        ("a \n {{- .Name -}} \t\n b", "aAdab"),
        ("a {{- /* gone */ -}} b", "ab"),
        ("a{{/* a comment }} */}}b", "ab"),
        ("{{ 3 -}} < {{- 45 }}", "3<45"),  # the example of the documentation
        ("{{-3}}", "-3"),
        # constants
        (r'{{ "q\"\t\u00e9\x41\101\U0001F642" }}', 'q"\té\x41A🙂'),
        ("{{ `raw\\n{{ \"}}` }}", 'raw\\n{{ "}}'),
        ("{{ 'a' }} {{ 0x1F }} {{ 1_000 }} {{ 017 }} {{ 0b11 }} {{ -7 }}", "97 31 1000 15 3 -7"),
        ("{{ 1.50 }} {{ 1e3 }} {{ .5 }} {{ 1e21 }} {{ true }}", "1.5 1000 0.5 1e+21 true"),
        # fields, variables, what is missing
        ("{{ .Missing }}|{{ .Nil }}|{{ .List }}|{{ .Map }}", "<no value>|<no value>|[a b c]|map[x:1 y:2]"),
        ("{{ .Map.x }} {{ (index .People 1).Name }} {{ $.Name }}", "1 Cy Ada"),
        ("{{ $x := 1 }}{{ $x }}{{ $x = 2 }}{{ $x }}", "12"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x := 9 }}{{ end }}{{ $x }}", "2"),
        ("{{ with $x := .Name }}{{ . }}{{ $x }}{{ end }}", "AdaAda"),
        # branches
        ("{{ if .Empty }}a{{ else if .Zero }}b{{ else }}c{{ end }}", "c"),
        ("{{ if .None }}a{{ else if .Yes }}b{{ else }}c{{ end }}d", "bd"),
        ("{{ if .Nil }}a{{ end }}{{ if not .Map }}b{{ end }}", ""),
        ("{{ with .Name }}{{ . }}{{ else }}no{{ end }} {{ with .Empty }}x{{ else }}no{{ end }}", "Ada no"),
        ("{{ with .Empty }}a{{ else with .Name }}{{ . }}{{ end }}", "Ada"),
        # loops
        ("{{ range .List }}<{{ . }}>{{ end }}", "<a><b><c>"),
        ("{{ range $e := .List }}{{ $e }}{{ end }}{{ range $i, $e := .List }}{{ $i }}{{ $e }}{{ end }}", "abc0a1b2c"),
        ("{{ range $k, $v := .Map }}{{ $k }}{{ $v }}{{ end }}", "x1y2"),
        ("{{ range .None }}a{{ else }}none{{ end }}", "none"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        ("{{ range .List }}{{ if eq . \"b\" }}{{ continue }}{{ end }}{{ . }}{{ end }}", "ac"),
        ("{{ range .List }}{{ if eq . \"b\" }}{{ break }}{{ end }}{{ . }}{{ end }}", "a"),
        ("{{ range .People }}{{ .Name }} of {{ $.Name }}{{ if .Age }}, {{ end }}{{ end }}", "Bo of Ada, Cy of Ada, "),
        ("{{ $last := \"\" }}{{ range .List }}{{ $last = . }}{{ end }}{{ $last }}", "c"),
        ("{{ range $i, $_ := .List }}{{ eq (len (slice $.List $i)) 1 }} {{ end }}", "false false true "),
        # functions
        ("{{ eq .Three 1 2 3 }} {{ ne .Name \"x\" }} {{ lt 1 2 }} {{ le 2 2 }} {{ gt \"b\" \"a\" }} {{ ge 1 2 }}",
         "true true true true true false"),
        ("{{ and .Yes .Name }} {{ and .Zero .Name }} {{ or .Empty .Name }} {{ or .Empty .Zero }}", "Ada 0 Ada 0"),
        ("{{ if or .Yes (index .List 99) }}lazy{{ end }}{{ if and .Zero (index .List 99) }}{{ else }}lazy{{ end }}",
         "lazylazy"),
        ("{{ len .Name }} {{ len \"é\" }} {{ len .List }} {{ len .Map }}", "3 2 3 2"),
        ("{{ index .List 1 }} {{ index .Map \"y\" }} {{ slice .Name 1 2 }}", "b 2 d"),
        ("{{ index .Map \"no\" }}", "<no value>"),
        ("{{ .Name | printed | len }}", "5"),
        ("{{ \"a\" | eq \"a\" }} {{ .Three | eq 3 }}", "true true"),
        ("{{ print \"a\" 1 2 \"b\" }}|{{ println 1 \"x\" }}", "a1 2b|1 x\n"),
        ("{{ eq .Nil \"x\" }} {{ eq .Half 0.5 }}", "false true"),
        ("{{ ( .Name ) }}{{ ((len .List) | eq 3) }}", "Adatrue"),
    ],
)  # fmt: skip
def test_what_a_template_gives(source: str, text: str):
    assert Template(source, {"printed": lambda value: f"<{value}>"}).render(DATA) == text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ .Name", "not closed"),
        ("{{ if true }}x", "has no end"),
        ("{{ end }}", "unexpected end"),
        ("{{ else }}", "unexpected else"),
        ("{{ }}", "value is missing"),
        ("{{ nothing .Name }}", "function 'nothing' not defined"),
        ("{{ if (nothing) }}{{ end }}", "not defined"),
        ("{{ $x }}", "undefined variable"),
        ("{{ $x = 1 }}", "undefined variable"),
        ("{{ if $x := 1 }}{{ end }}{{ $x }}", "undefined variable"),
        ("{{ range .List }}{{ $x := . }}{{ end }}{{ $x }}", "undefined variable"),
        ("{{ break }}", "outside of a range"),
        ('{{ define "x" }}{{ end }}', "define is not supported"),
        ('{{ template "x" }}', "template is not supported"),
        ("{{ (.Name }}", "parenthesis is not closed"),
        ("{{ .Name) }}", "closed that was not opened"),
        ("{{/* x }}", "comment is not closed"),
        ('{{ "a" "b" }}', "no function"),
        ("{{ .Name | 3 }}", "no function"),
        ('{{ "\\q" }}', "no escape"),
        ('{{ eq .Name"x" }}', "space is missing"),
        ("{{ 3x }}", "does not belong"),
        ("line\nline {{ $x }}", "line 2"),
    ],
)
def test_what_is_not_valid_is_refused_when_it_is_read(source: str, message: str):
    with pytest.raises(GoTemplateError, match=message):
        Template(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ range .People }}{{ .Nothing }}{{ end }}", "can't evaluate field Nothing"),
        ("{{ .Name.First }}", "can't evaluate field First"),
        ("{{ .Nil.x }}", "nil has no field"),
        ("{{ index .List 3 }}", "out of range"),
        ("{{ slice .List 2 1 }}", "out of range"),
        ('{{ eq .Three "3" }}', "incompatible types"),
        ("{{ eq .Three }}", "missing argument"),
        ("{{ len 3 }}", "len of 3"),
        ("{{ range .Name }}{{ end }}", "can't iterate"),
        ("{{ not 1 2 }}", "wrong number of arguments"),
        ("{{ range 99999999 }}" + "x" * 9999 + "{{ end }}", "too much"),
    ],
)
def test_what_fails_on_its_data(source: str, message: str):
    with pytest.raises(GoTemplateError, match=message):
        Template(source).render(DATA)


@pytest.mark.parametrize("text", ["", 'a"b\\c', "\n\t\x07\x00", "é\uff5c▁🙂", "\u200b\ue000\U000e0001", "{{ }} `x`"])
def test_a_quoted_text_is_read_back(text: str):
    assert Template(f"{{{{ {quoted(text)} }}}}").render({}) == text
