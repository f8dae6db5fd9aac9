"""What the figures of matplotlib show, as data: lines, points, bars, slices and boxes of each pair of axes."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from typing import Any

_POINTS_LIMIT = 20_000
_BOX_QUARTILES = 2


class _TooManyPointsError(Exception):
    pass


def chart_of(figure: Any) -> dict[str, Any] | None:
    """Return the chart of a figure; several pairs of axes make a `superchart`. None: nothing was drawn, or too much to show as data."""
    axes = [each for each in figure.axes if each.has_data()]
    try:
        charts = [_chart_of_axes(each) for each in axes]
    except _TooManyPointsError:
        return None
    if not charts:
        return None
    if len(charts) == 1:
        return charts[0]
    title = figure.get_suptitle() if hasattr(figure, "get_suptitle") else _text(figure._suptitle)
    return {"type": "superchart", "title": title or None, "elements": charts}


def _chart_of_axes(axes: Any) -> dict[str, Any]:
    # Imported by the code that made the figure.
    from matplotlib.collections import PathCollection  # noqa: PLC0415
    from matplotlib.container import BarContainer  # noqa: PLC0415
    from matplotlib.patches import Wedge  # noqa: PLC0415

    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    points = [each for each in axes.collections if isinstance(each, PathCollection)]
    boxes = _boxes(axes)
    if wedges:
        return {"type": "pie", "title": axes.get_title() or None, "elements": _slices(axes, wedges)}
    if boxes is not None:
        return {"type": "box_and_whisker", **_labels(axes), "elements": boxes}
    if bars:
        return {"type": "bar", **_labels(axes), "elements": _bars(axes, bars)}
    if points:
        elements = [_element(each, index, each.get_offsets()) for index, each in enumerate(points)]
        return {"type": "scatter", **_labels(axes), **_scales(axes), "elements": elements}
    if axes.lines:
        elements = [
            _element(line, index, zip(line.get_xdata(orig=True), line.get_ydata(orig=True), strict=False))
            for index, line in enumerate(axes.lines)
        ]
        return {"type": "line", **_labels(axes), **_scales(axes), "elements": elements}
    return {"type": "unknown", "title": axes.get_title() or None, "elements": []}


def _labels(axes: Any) -> dict[str, Any]:
    x, y = axes.get_xlabel() or None, axes.get_ylabel() or None
    return {
        "title": axes.get_title() or None,
        "x_label": x,
        "y_label": y,
        "x_unit": _unit(x),
        "y_unit": _unit(y),
    }


def _unit(label: str | None) -> str | None:
    """Return what stands in brackets at the end of a label: `Time (s)`, `Speed [m/s]`."""
    if label and label[-1] in ")]":
        begin = label.rfind("(" if label[-1] == ")" else "[")
        if begin >= 0:
            return label[begin + 1 : -1].strip() or None
    return None


def _scales(axes: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        scale = axis.get_scale()
        converter = axis.get_converter() if hasattr(axis, "get_converter") else axis.converter
        kind = type(converter).__name__
        if "Date" in kind:
            scale = "datetime"
        elif "Category" in kind:
            scale = "categorical"
        ticks = list(axis.get_ticklocs())
        result[f"{name}_ticks"] = [_value_at(axis, scale, tick) for tick in ticks]
        result[f"{name}_tick_labels"] = [_text(label) for label in axis.get_ticklabels()]
        result[f"{name}_scale"] = scale
    return result


def _value_at(axis: Any, scale: str, tick: float) -> Any:
    if scale == "datetime":
        from matplotlib.dates import num2date  # noqa: PLC0415

        return num2date(tick).isoformat()
    if scale == "categorical":
        return axis.get_major_formatter()(tick)
    return _plain(tick)


def _element(artist: Any, index: int, pairs: Iterable[Sequence[Any]]) -> dict[str, Any]:
    points = []
    for pair in pairs:
        points.append((_plain(pair[0]), _plain(pair[1])))
        if len(points) > _POINTS_LIMIT:
            raise _TooManyPointsError
    return {"label": _label(artist, index), "points": points}


def _label(artist: Any, index: int) -> str:
    label = str(artist.get_label())
    # Names that begin with an underscore are matplotlib's own.
    return f"Series {index + 1}" if label.startswith("_") or not label else label


def _bars(axes: Any, containers: Sequence[Any]) -> list[dict[str, Any]]:
    elements: list[dict[str, Any]] = []
    for container in containers:
        is_vertical = getattr(container, "orientation", None) != "horizontal"
        axis = axes.xaxis if is_vertical else axes.yaxis
        names = dict(
            zip(
                (round(float(tick), 6) for tick in axis.get_ticklocs()),
                map(_text, axis.get_ticklabels()),
                strict=False,
            )
        )
        group = str(container.get_label())
        for bar in container.patches:
            middle = bar.get_x() + bar.get_width() / 2 if is_vertical else bar.get_y() + bar.get_height() / 2
            value = bar.get_height() if is_vertical else bar.get_width()
            label = names.get(round(float(middle), 6)) or str(_plain(middle))
            elements.append(
                {"label": label, "value": _plain(value), "group": "" if group.startswith("_") else group}
            )
            if len(elements) > _POINTS_LIMIT:
                raise _TooManyPointsError
    return elements


def _slices(axes: Any, wedges: Sequence[Any]) -> list[dict[str, Any]]:
    # With `autopct` each slice has two texts, of which the label is further from the centre.
    texts = sorted(axes.texts, key=lambda text: -math.hypot(*text.get_position()))[: len(wedges)]
    labels = [_text(text) for text in axes.texts if text in texts]
    if len(labels) < len(wedges):
        labels = [_label(wedge, index) for index, wedge in enumerate(wedges)]
    return [
        {"label": label, "angle": _plain(wedge.theta2 - wedge.theta1), "radius": _plain(wedge.r)}
        for label, wedge in zip(labels, wedges, strict=True)
    ]


def _boxes(axes: Any) -> list[dict[str, Any]] | None:
    """Return the boxes of a box plot; None if the axes have none. A box is drawn as a path of five points or more, its parts as lines."""
    from matplotlib.patches import PathPatch  # noqa: PLC0415

    outlines = [
        line.get_xydata()
        for line in axes.lines
        if len(line.get_xdata()) >= 5 and _is_closed(line.get_xydata())
    ]
    outlines += [
        patch.get_path().vertices[:5]
        for patch in axes.patches
        if isinstance(patch, PathPatch) and len(patch.get_path()) >= 5
    ]
    if not outlines:
        return None
    rest = [line for line in axes.lines if len(line.get_xdata()) < 5 or not _is_closed(line.get_xydata())]
    names = [_text(label) for label in axes.get_xticklabels()]
    boxes = []
    for index, outline in enumerate(outlines):
        left, right = min(outline[:, 0]), max(outline[:, 0])
        first, third = min(outline[:, 1]), max(outline[:, 1])
        middle = (left + right) / 2
        within = [
            line.get_xydata() for line in rest if len(line.get_xdata()) and _is_within(line, left, right)
        ]
        level = [xy for xy in within if len(xy) == 2 and xy[0][1] == xy[1][1] and first <= xy[0][1] <= third]
        # The ends of the whiskers may be at the edge of the box; the line of the median is the widest one.
        level.sort(key=lambda xy: abs(xy[1][0] - xy[0][0]))
        ends = [y for xy in within if len(xy) == 2 and xy[0][0] == xy[1][0] for y in xy[:, 1]]
        low, high = min([first, *ends]), max([third, *ends])
        outliers = [y for xy in within for x, y in xy if x == middle and not low <= y <= high]
        boxes.append(
            {
                "label": names[index] if index < len(names) else str(index + 1),
                "min": _plain(low), "first_quartile": _plain(first),
                "median": _plain(level[-1][0][1] if level else (first + third) / 2),
                "third_quartile": _plain(third), "max": _plain(high), "outliers": [_plain(y) for y in outliers],
            }
        )  # fmt: skip
    return boxes


def _is_closed(points: Any) -> bool:
    return len({float(x) for x in points[:, 0]}) == _BOX_QUARTILES and tuple(points[0]) == tuple(points[4])


def _is_within(line: Any, left: float, right: float) -> bool:
    xs = line.get_xydata()[:, 0]
    return bool(left <= min(xs) and max(xs) <= right)


def _text(label: Any) -> str:
    return str(label.get_text()) if label is not None else ""


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
