"""Command lines from functions and from the rooms' own configuration, whose field docs are the help."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import tyro

from lavla_ros.config import parse_options

Json = Annotated[bool, tyro.conf.arg(name="json")]
"""The option ``--json`` of a command's parameter ``as_json``."""
OptionTexts = Annotated[tuple[str, ...], tyro.conf.arg(name="option", aliases=["-o"]), tyro.conf.UseAppendAction]
"""The option ``-o name=value``, which may be given several times; :func:`parse_options` reads it."""
_SUITE_OPTION = "Option of the suite, written name=value; it may be given several times. --name value does the same."
_positional: dict[Any, Sequence[str]] = {}
"""Configuration → its fields that are given without a name."""
_annotated: Any = Annotated  # for types that are known at run time only


def fields_of(config_class: type, *, positional: Sequence[str] = (), without: Sequence[str] = (), **names: str) -> Any:
    """Marks a parameter, ``Annotated[C, fields_of(C)]``: each field of C is an option, its docstring the help.

    ``positional`` fields are given without a name, those in ``without`` cannot be given, ``names`` renames options. A
    field ``options``, those of a suite, is ``-o name=value``.
    """
    hints, docs = get_type_hints(config_class, include_extras=True), field_docs(config_class)
    _positional[config_class] = positional

    def option(field: dataclasses.Field[Any]) -> tuple[str, Any, Any]:
        said = docs.get(field.name) or field.metadata.get("help")
        markers: list[Any] = [tyro.conf.arg(name=names.get(field.name), help=said)]
        markers += [tyro.conf.Positional] if field.name in positional else []
        markers += [tyro.conf.Suppress] if field.name in without else []
        if field.name == "options" and "options" not in without:
            texts = _annotated[OptionTexts, tyro.conf.arg(help=_SUITE_OPTION)]
            return field.name, texts, dataclasses.field(default=(), kw_only=True)
        default = dataclasses.field(default=field.default, default_factory=field.default_factory, kw_only=True)
        return field.name, _annotated[hints[field.name], *markers], default

    options = dataclasses.make_dataclass(
        config_class.__name__,
        map(option, dataclasses.fields(config_class)),
        bases=(config_class,),
        namespace={"__post_init__": lambda self: None, "config_class": config_class},  # checked when the command runs
        kw_only=True,
        frozen=True,
    )
    return tyro.conf.arg(name="", constructor=options)


def field_docs(config_class: type) -> dict[str, str]:
    """The docstring under each field, those of its bases included, as one paragraph without markup."""
    classes = [each for each in reversed(config_class.__mro__) if dataclasses.is_dataclass(each)]
    bodies = [ast.parse(textwrap.dedent(inspect.getsource(each))).body[0] for each in classes]
    return {
        field.target.id: " ".join(doc.value.value.replace("``", "").split())
        for body in bodies
        if isinstance(body, ast.ClassDef)
        for field, doc in pairwise(body.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) and isinstance(doc.value.value, str)
    }


def own_options(function: Callable[..., None]) -> dict[str, inspect.Parameter]:
    """The parameters of a command, those of its configuration included that have a default."""
    own = dict(inspect.signature(function).parameters)
    for hint in get_type_hints(function).values():
        if dataclasses.is_dataclass(hint):
            parameters = inspect.signature(hint).parameters  # type: ignore[arg-type]
            own |= {name: each for name, each in parameters.items() if each.default is not each.empty}
            unnamed = own.keys() & set(_positional.get(hint, ()))
            own |= {name: own[name].replace(kind=inspect.Parameter.POSITIONAL_ONLY) for name in unnamed}
    return own


def parse_function(
    function: Callable[..., None], arguments: Sequence[str], *, prog: str, summary: str
) -> Callable[[], None]:
    """The call of ``function`` that the arguments describe. Ends the process, with status 2, if they describe none."""
    if "options" in (own := own_options(function)) and not {"-h", "--help"} & set(arguments):
        from sim_bridges.suites import spell_options

        arguments = spell_options(arguments, own)

    @functools.wraps(function)
    def call_later(*values: Any, **options: Any) -> Callable[[], None]:
        return lambda: function(*map(_built, values), **{name: _built(value) for name, value in options.items()})

    return tyro.cli(
        call_later,
        prog=prog,
        description=f"{summary}\n\n{(inspect.getdoc(function) or '').partition('Args:')[0]}".rstrip(),
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _built(value: Any) -> Any:
    """The room's own configuration, which checks itself, in place of the options read for it."""
    if (config_class := getattr(value, "config_class", None)) is None:
        return value
    given = {field.name: getattr(value, field.name) for field in dataclasses.fields(config_class)}
    if isinstance(given.get("options"), tuple):  # an empty one says that it is not given
        given["options"] = {name: text for name, text in parse_options(given["options"]).items() if text}
    return config_class(**given)
