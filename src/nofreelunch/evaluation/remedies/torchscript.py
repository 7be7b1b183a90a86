"""TorchScript, run operation by operation in Python, so that each passes by whoever watches the functions of torch.

TorchScript itself runs out of sight: what a program rounds, compares or detaches could be told by its answers alone.
The values are the same, to the last bit; where a program cannot be run so, TorchScript runs it.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

import torch

from nofreelunch.evaluation.remedies.unseen import replaced

_PROPERTIES = {"prim::dtype", "prim::device", "prim::layout", "prim::is_cuda", "prim::is_sparse"}
_Values = dict[str, Any]
"""By the names that a program's graph gives them."""


@contextmanager
def interpreting() -> Iterator[None]:
    """Inside the block, script modules and script functions that are called run operation by operation."""
    with ExitStack() as stack:
        for kind in (torch.jit.ScriptModule, torch.jit.ScriptFunction):
            stack.enter_context(replaced(kind, "__call__", _instead_of(kind.__call__)))
        yield


def _instead_of(call: Callable[..., Any]) -> Callable[..., Any]:
    def run(program: Any, *args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            with suppress(Exception):  # any operation may be one that there is in TorchScript alone, and any may fail
                return interpreted(program, *args)
        return call(program, *args, **kwargs)

    return run


def interpreted(program: Any, *given: Any) -> Any:
    """What a script module or a script function answers to these arguments; those left out have their defaults."""
    is_module = isinstance(program, torch.jit.ScriptModule)
    schema = program.forward.schema if is_module else program.schema
    values = [program, *given] if is_module else list(given)
    values += [argument.default_value for argument in schema.arguments[len(values) :]]
    return _block(program.inlined_graph, values, {})[0]


def _block(block: Any, given: Sequence[Any], known: _Values) -> list[Any]:
    """What a block of operations returns, and, in `known`, all that it computes."""
    known |= zip((one.debugName() for one in block.inputs()), given, strict=True)
    for node in block.nodes():
        made = _node(node, [known[one.debugName()] for one in node.inputs()], known)
        known |= zip((one.debugName() for one in node.outputs()), made, strict=True)
    return [known[one.debugName()] for one in block.outputs()]


def _node(node: Any, args: list[Any], known: _Values) -> Sequence[Any]:
    """The outputs of one operation: of the language, or of torch."""
    kind: str = node.kind()
    if kind in _LANGUAGE:
        return _LANGUAGE[kind](node, args)
    if kind == "prim::If":
        then, otherwise = node.blocks()
        return _block(then if args[0] else otherwise, [], known)
    if kind == "prim::Loop":
        return _loop(next(node.blocks()), args, known)
    if kind in _PROPERTIES:
        return [getattr(args[0], kind.removeprefix("prim::"))]
    if kind in _OF_LISTS and isinstance(args[0], (list, dict)):
        return [_OF_LISTS[kind](*args)]
    return _operation(node, args)


def _loop(body: Any, args: list[Any], known: _Values) -> list[Any]:
    count, (most, goes_on, *carried) = 0, args
    while goes_on and count < most:
        goes_on, *carried = _block(body, [count, *carried], known)
        count += 1
    return carried


def _operation(node: Any, args: list[Any]) -> Sequence[Any]:
    """One of torch's, which tells the modes."""
    operation, schema = _found(node.schema())
    plain = [arg for arg, of in zip(args, schema.arguments, strict=True) if not of.kwarg_only]
    named = {of.name: arg for arg, of in zip(args, schema.arguments, strict=True) if of.kwarg_only}
    made = operation(*plain, **named)
    outputs = len(schema.returns)
    return [made] if outputs == 1 else made if outputs else []


@cache
def _found(words: str) -> tuple[Callable[..., Any], Any]:
    """The operation of torch with this schema, and the schema."""
    schema = torch._C.parse_schema(words)
    namespace, name = schema.name.split("::")
    return getattr(getattr(getattr(torch.ops, namespace), name), schema.overload_name or "default"), schema


def _set_attribute(node: Any, args: list[Any]) -> Sequence[Any]:
    setattr(args[0], node.s("name"), args[1])
    return []


def _appended(values: list[Any], value: Any) -> list[Any]:
    values.append(value)
    return values


_LANGUAGE: dict[str, Callable[[Any, list[Any]], Sequence[Any]]] = {
    "prim::Constant": lambda node, _: [node.output().toIValue()],
    "prim::GetAttr": lambda node, args: [getattr(args[0], node.s("name"))],
    "prim::SetAttr": _set_attribute,
    "prim::ListConstruct": lambda _, args: [args],
    "prim::TupleConstruct": lambda _, args: [tuple(args)],
    "prim::DictConstruct": lambda _, args: [dict(zip(args[::2], args[1::2], strict=True))],
    "prim::ListUnpack": lambda _, args: args[0],
    "prim::TupleUnpack": lambda _, args: args[0],
    "prim::TupleIndex": lambda _, args: [args[0][args[1]]],
    "prim::unchecked_cast": lambda _, args: args,
    "prim::unchecked_unwrap_optional": lambda _, args: args,
    "prim::Uninitialized": lambda *_: [None],
}
"""What is no operation of torch, by the names of TorchScript."""
_OF_LISTS: dict[str, Callable[..., Any]] = {
    "aten::__getitem__": operator.getitem,
    "aten::slice": lambda values, *ends: values[slice(*ends)],
    "aten::len": len,
    "aten::add": operator.add,
    "aten::append": _appended,
    "aten::list": list,
    "aten::__contains__": operator.contains,
}
"""Of lists of anything, which torch does not take from Python."""
