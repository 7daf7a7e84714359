"""Chat templates that want more time, memory or depth than any honest one: each must be given up within its limits."""

_BIG = "{% set a = 'a' * 16000000 %}"
_LIST = "range(99999) | list * 100"
_MANY = "{% for i in range(99) %}"
_FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}"
_END = "{% endfor %}{% endfor %}"

BOMBS = {
    "nested loops": _FOREVER + "{% for c in range(99999) %}{% endfor %}" + _END,
    "loops beside": "{% for i in range(99999) %}{% endfor %}" * 2000,
    "endless output": _FOREVER + "{{ 'x' * 20 }}" + _END,
    "doubling": "{% set n = namespace(s='ab') %}" + _MANY + "{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "doubling lists": "{% set n = namespace(s=[1]) %}" + _MANY + "{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "growing messages": "{% set n = namespace(m=messages) %}" + _MANY + "{% set n.m = n.m + n.m %}{% endfor %}",
    "times": "{{ 'a' * 9999999999 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "wide format": "{{ '%9999999999d' % 1 }}",
    "wide str.format": "{{ '{:>9999999999}'.format(1) }}",
    "replace": _BIG + "{{ a | replace('a', a) }}",
    "join": "{{ range(99999) | join('a' * 9999999) }}",
    "recursive macro": "{% macro f(n) %}{% if n > 1 %}{{ f(n-1) }}{{ f(n-2) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "callers": "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call f() %}" * 30
    + "x"
    + "{% endcall %}" * 30,
    "slices": _BIG + _FOREVER + "{% set b = a[::-1] %}" + _END,
    "a chain of slices": _BIG + "{{ a" + "[1:]" * 20_000 + " | length }}",
    "a chain of sorts": "{{ (range(99999) | list" + " | sort" * 600 + ") | length }}",
    "words": "{{ ('a-' * 8000000) | title | length }}",
    "groups": "{{ (range(99999) | list * 50) | groupby('real') | length }}",
    "long JSON": "{{ (range(99999) | list * 100) | tojson | length }}",
    "long lists compared": "{% set a = range(99999) | list * 100 %}" + _FOREVER + "{{ a == a[1:] }}" + _END,
    "split": "{{ ('a,' * 8000000).split(',') | length }}",
    "deep brackets": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "deep ifs": "{% if true %}" * 3000 + "{% endif %}" * 3000,
    "too long": "x" * 200_000,
}
