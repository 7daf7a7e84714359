"""Go's text/template, as much of it as chat templates use: enough to know what Ollama will make of one.

From the documentation of Go's packages text/template and text/template/parse: text, actions, pipelines, variables,
`if`, `range`, `with`, `else`, `break`, `continue`, comments, trim markers, and the functions that every template has.
Left out are `define`, `block` and `template`, methods, and complex numbers; they are refused, not passed over.
"""

from ggufkit.exports.go_template.errors import GoTemplateError, LeftOutError
from ggufkit.exports.go_template.evaluate import Record, Template

__all__ = ["GoTemplateError", "LeftOutError", "Record", "Template"]
