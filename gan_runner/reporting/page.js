"use strict";
// The plots of a report. All numbers come from the element #data, which gan_runner/reporting/charts.py fills.

const data = JSON.parse(document.getElementById("data").textContent);
const settings = data.settings || [];
const isStudy = settings.length > 0;
const byId = name => document.getElementById(name);

const DRAWN = 12;       // settings whose curves are drawn at once: the best of those shown
const BANDS = 4;        // of which these have a band
const BESIDE = 40;      // settings in the plot of intervals
const IN_PARALLEL = 200;
const COLOURS = 6;
const DASHES = ["solid", "dash", "dot", "dashdot"];

const state = { hidden: new Set(), matching: null, value: 0, against: "steps" };

// --- which settings are shown ---------------------------------------------------------------------------------------

const isShown = place => !state.hidden.has(place) && (!state.matching || state.matching.has(place));
const shownSettings = () => settings.map((_, place) => place).filter(isShown);
const name = place => `#${settings[place].number} ${settings[place].label}`;
const shortName = place => `#${settings[place].number} ${settings[place].values.join(", ")}`;

function toggle(places) {
  for (const place of places) state.hidden.has(place) ? state.hidden.delete(place) : state.hidden.add(place);
  update();
}

// --- looks ----------------------------------------------------------------------------------------------------------

const style = variable => getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
const colour = place => style(`--c${place % COLOURS}`);
const dotColour = place => place < DRAWN ? colour(place) : style("--soft");
const dash = place => DASHES[Math.floor(place / COLOURS) % DASHES.length];
const faint = (hex, alpha) => hex + Math.round(255 * alpha).toString(16).padStart(2, "0");
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const ending = (text, most) => text.length > most ? `…${text.slice(1 - most)}` : text;
const short = (text, most) => text.length > most ? `${text.slice(0, most - 1)}…` : text;
const written = value => value === null ? "–" : String(Number(value.toPrecision(4)));

function layout(options) {
  const axis = {
    gridcolor: style("--grid"), linecolor: style("--edge"), zeroline: false, automargin: true,
    tickfont: { size: 11 }, title: { font: { size: 12 }, standoff: 8 },
  };
  const { x = {}, y = {}, title = "", ...rest } = options;
  return {
    title: { text: escaped(title), font: { size: 14 }, x: 0, xref: "container", xanchor: "left", y: 0.98, yanchor: "top" },
    font: { family: "system-ui, sans-serif", size: 12, color: style("--ink") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 14, t: 38, b: 8 },
    showlegend: false, hovermode: "closest", dragmode: "zoom",
    hoverlabel: { bgcolor: style("--card"), bordercolor: style("--edge"), font: { color: style("--ink") }, align: "left" },
    xaxis: { ...axis, ...logTicks(x), ...x, title: { ...axis.title, text: escaped(x.text || "") } },
    yaxis: { ...axis, ...logTicks(y), ...y, title: { ...axis.title, text: escaped(y.text || "") } },
    ...rest,
  };
}

// Powers of ten alone where an axis spans some.
function logTicks({ type, range }) {
  if (type !== "log") return {};
  return range && range[1] - range[0] < 1.5 ? { dtick: "D2", tickformat: "~g" } : { dtick: 1, tickformat: "~g" };
}

function draw(node, traces, options) {
  const config = {
    displaylogo: false, responsive: true, displayModeBar: "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
  };
  Plotly.react(node, traces, layout(options), config);
  if (!node.listens) {
    node.listens = true;
    node.on("plotly_click", event => {
      const found = event.points[0].customdata;
      if (isStudy && found !== undefined && found !== null) toggle([found].flat());
    });
  }
}

// A dashed line at the floor, with its name.
function floorShapes(value, letter, isLog) {
  if (value === null || value === undefined || (isLog && value <= 0)) return {};
  const other = letter === "x" ? "y" : "x";
  const ends = { [`${letter}0`]: value, [`${letter}1`]: value, [`${other}0`]: 0, [`${other}1`]: 1, [`${other}ref`]: "paper" };
  const at = isLog ? Math.log10(value) : value;
  const place = letter === "x" ? { x: at, y: 1, yref: "paper", yanchor: "bottom" } : { y: at, x: 1, xref: "paper", xanchor: "right", yanchor: "bottom" };
  return {
    shapes: [{ type: "line", ...ends, line: { dash: "dash", width: 1.2, color: style("--soft") } }],
    annotations: [{ ...place, text: `floor ${written(value)}`, showarrow: false, font: { size: 11, color: style("--soft") } }],
  };
}

const logged = (text, isLog) => isLog ? `${text} (logarithmic)` : text;

function newPlot(section, isWide) {
  const node = document.createElement("div");
  node.className = isWide ? "plot wide" : "plot";
  byId(section).hidden = false;
  byId(section).querySelector(".plots").append(node);
  return node;
}

// --- settings side by side ------------------------------------------------------------------------------------------

const quantity = () => data.quantities[state.value];
const meanOf = place => data.means[state.value][place];
const titleOf = one => one.higher === null ? one.title : `${one.title} (${one.higher ? "higher" : "lower"} is better)`;

function meanText(place) {
  const [mean, low, high, count] = meanOf(place);
  const interval = low === null ? "" : `<br>95 % interval ${written(low)} to ${written(high)}`;
  return `${escaped(name(place))}<br>mean of ${count} seed${count === 1 ? "" : "s"}: ${written(mean)}${interval}`;
}

function seedsOf(places) {
  const wanted = new Set(places);
  return data.runs.filter(([place, , values]) => wanted.has(place) && values[state.value] !== null);
}

const seedText = ([place, seed, values]) => `${escaped(name(place))}<br>seed ${escaped(seed)}: ${written(values[state.value])}`;

function errors(places) {
  return {
    type: "data", symmetric: false, thickness: 1.2, width: 3, color: style("--soft"),
    array: places.map(place => meanOf(place)[2] === null ? 0 : meanOf(place)[2] - meanOf(place)[0]),
    arrayminus: places.map(place => meanOf(place)[1] === null ? 0 : meanOf(place)[0] - meanOf(place)[1]),
  };
}

// Means with intervals, and a dot for each run; `at` says where a setting lies along the other axis.
function points(places, at, isUpright) {
  const known = places.filter(place => meanOf(place)[0] !== null && at(place) !== null);
  const runs = seedsOf(known);
  const seeds = { along: runs.map(([place]) => at(place)), values: runs.map(([, , values]) => values[state.value]) };
  const means = { along: known.map(at), values: known.map(place => meanOf(place)[0]) };
  const axes = found => isUpright ? { x: found.along, y: found.values } : { x: found.values, y: found.along };
  return [
    { ...axes(seeds), type: "scatter", mode: "markers", customdata: runs.map(([place]) => place), hoverinfo: "text",
      hovertext: runs.map(seedText), marker: { size: 5, opacity: 0.55, color: runs.map(([place]) => dotColour(place)) } },
    { ...axes(means), type: "scatter", mode: "markers", customdata: known, hoverinfo: "text", hovertext: known.map(meanText),
      [isUpright ? "error_y" : "error_x"]: errors(known),
      marker: { size: 9, color: known.map(dotColour), line: { width: 1, color: style("--page") } } },
  ];
}

function intervals() {
  const node = newPlot("intervals", true);
  return () => {
    const places = shownSettings().filter(place => meanOf(place)[0] !== null).slice(0, BESIDE);
    const one = quantity();
    const isNarrow = node.clientWidth < 600;
    const label = place => isNarrow ? `#${settings[place].number}` : short(`${settings[place].values.join(", ")}  #${settings[place].number}`, 44);
    node.style.height = `${Math.max(180, 90 + 26 * places.length)}px`;
    const order = new Map(places.map((place, row) => [place, row]));
    draw(node, points(places, place => order.get(place), false), {
      x: { text: logged(titleOf(one), one.isLog), type: one.isLog ? "log" : "linear" },
      y: { tickvals: places.map((_, row) => row), ticktext: places.map(place => escaped(label(place))), range: [places.length - 0.5, -0.5], showgrid: false },
      title: isNarrow ? "" : short(data.columns.join(", "), 90),
      ...floorShapes(one.floor, "x", one.isLog),
    });
  };
}

// --- against the keys -----------------------------------------------------------------------------------------------

function keyAxis(column) {
  const axis = data.axes[column];
  const ticks = axis.ticks ? { tickvals: axis.ticks.map(([place]) => place), ticktext: axis.ticks.map(([, text]) => escaped(short(text, 22))) } : {};
  const ends = axis.isName ? { range: [-0.5, Math.max(...axis.positions) + 0.5] } : {};
  return { text: logged(data.columns[column], axis.isLog), ...ticks, ...ends, showgrid: !axis.isName };
}

// Where a setting lies along a key; beside each other where many have one name.
function position(column, place) {
  const axis = data.axes[column], at = axis.positions[place];
  return at === null || !axis.isName ? at : at + 0.5 * ((0.618 * place) % 1 - 0.5) * Math.min(1, settings.length / 8);
}

// Settings that differ in one key alone, where these are few: thin lines between them.
function connections(column, places) {
  if (data.axes[column].isName) return [];
  const lines = new Map();
  for (const place of places) {
    const others = settings[place].values.filter((_, other) => other !== column).join("\n");
    lines.set(others, [...(lines.get(others) || []), place]);
  }
  if (lines.size > DRAWN || lines.size > places.length / 2) return [];
  const at = place => data.axes[column].positions[place];
  const heights = places.map(place => meanOf(place)[0]).filter(value => value !== null);
  const apart = 0.05 * (Math.max(...heights) - Math.min(...heights)), named = [];
  return [...lines.values()].map(members => {
    const known = members.filter(place => at(place) !== null && meanOf(place)[0] !== null).sort((a, b) => at(a) - at(b));
    const end = known.length ? meanOf(known[known.length - 1])[0] : null;
    const isFree = end !== null && named.every(other => Math.abs(end - other) > apart);  // or names would lie on each other
    if (isFree) named.push(end);
    const others = isFree ? settings[members[0]].values.filter((_, other) => other !== column).join(", ") : "";
    return { x: known.map(at), y: known.map(place => meanOf(place)[0]), type: "scatter", mode: "lines+text", hoverinfo: "skip",
             text: known.map((_, row) => row === known.length - 1 ? `  ${escaped(short(others, 18))}` : ""), textposition: "middle right",
             textfont: { size: 10, color: style("--soft") }, cliponaxis: false, line: { width: 1, color: faint(style("--soft"), 0.6) } };
  });
}

function against() {
  return data.columns.map((_, column) => {
    const node = newPlot("against");
    return () => {
      const places = shownSettings(), one = quantity();
      const traces = [...connections(column, places), ...points(places, place => position(column, place), true)];
      draw(node, traces, {
        x: keyAxis(column), y: { text: logged(one.title, one.isLog), type: one.isLog ? "log" : "linear" },
        title: data.columns[column], ...floorShapes(one.floor, "y", one.isLog),
      });
    };
  });
}

function parallel() {
  const node = newPlot("parallel", true);
  return () => {
    const places = shownSettings().filter(place => meanOf(place)[0] !== null).slice(0, IN_PARALLEL), one = quantity();
    const ends = data.axes.map(axis => {
      const known = axis.positions.filter(value => value !== null);
      return [Math.min(...known), Math.max(...known)];
    });
    const scale = value => one.isLog && value > 0 ? Math.log10(value) : value;
    const values = places.map(place => scale(meanOf(place)[0]));
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const within = (value, [low, high]) => value === null ? null : high > low ? (value - low) / (high - low) : 0.5;
    const traces = places.map((place, row) => {
      const last = within(values[row], [least, most]);
      const goodness = one.higher ? last : 1 - last;
      const heights = data.axes.map((axis, column) => within(axis.positions[place], ends[column]));
      return { x: [...heights.keys(), heights.length], y: [...heights, last], type: "scatter", mode: "lines+markers",
               hoverinfo: "text", hovertext: meanText(place), customdata: Array(heights.length + 1).fill(place), connectgaps: true,
               line: { color: style("--accent"), width: 1 + 1.5 * goodness ** 4 }, marker: { size: 4, color: style("--accent") },
               opacity: 0.12 + 0.88 * goodness ** 4 };
    }).reverse();
    const label = (x, y, text) => ({ x, y, text: escaped(text), showarrow: false, xanchor: "left", xshift: 5, bgcolor: faint(style("--page"), 0.8), font: { size: 11 } });
    const notes = data.axes.flatMap((axis, column) => (axis.ticks || ends[column].map(value => [value, written(value)]))
      .map(([value, text]) => label(column, within(value, ends[column]), short(text, 16))));
    const shownEnds = one.isLog ? [10 ** least, 10 ** most] : [least, most];
    if (places.length) notes.push(...shownEnds.map((value, place) => label(data.axes.length, place, written(value))));
    const log = (text, isLog) => isLog ? `${text} (log)` : text;
    const heads = [...data.columns.map((key, column) => log(key, data.axes[column].isLog)), log(one.title, one.isLog)];
    const room = Math.floor(node.clientWidth / heads.length / 6.5);
    notes.push(...heads.map((text, x) => ({ ...label(x, 1.14, ending(text, Math.max(8, room))), xshift: 0, font: { size: 12 } })));
    node.style.height = "380px";
    draw(node, traces, {
      x: { tickvals: heads.map((_, place) => place), showticklabels: false, range: [-0.02, heads.length - 0.15], gridcolor: style("--soft"), linecolor: "rgba(0,0,0,0)" },
      y: { visible: false, range: [-0.06, 1.2] }, annotations: notes, title: "", margin: { l: 8, r: 14, t: 8, b: 8 },
    });
  };
}

function maps() {
  return data.maps.map(([down, across]) => {
    const node = newPlot("maps");
    return () => {
      const one = quantity();
      const columns = [...new Set(data.axes[across].positions)].filter(value => value !== null).sort((a, b) => a - b);
      const rows = [...new Set(data.axes[down].positions)].filter(value => value !== null).sort((a, b) => a - b);
      const text = (column, position) => settings[data.axes[column].positions.indexOf(position)].values[column];
      const members = rows.map(row => columns.map(column => shownSettings().filter(place =>
        data.axes[down].positions[place] === row && data.axes[across].positions[place] === column && meanOf(place)[0] !== null)));
      const mean = places => places.length ? places.reduce((sum, place) => sum + meanOf(place)[0], 0) / places.length : null;
      const means = members.map(row => row.map(mean));
      const shade = value => value === null ? null : one.isLog ? Math.log10(value) : value;
      const isSmall = Math.max(rows.length, columns.length) <= 14;
      const hover = members.map((row, i) => row.map((places, j) => places.length === 1 ? meanText(places[0]) :
        `${escaped(data.columns[down])}=${escaped(text(down, rows[i]))}, ${escaped(data.columns[across])}=${escaped(text(across, columns[j]))}<br>mean of ${places.length} settings: ${written(means[i][j])}`));
      node.style.height = `${Math.max(260, 130 + 34 * rows.length)}px`;
      draw(node, [{
        type: "heatmap", z: means.map(row => row.map(shade)), customdata: members, hoverinfo: "text", hovertext: hover, xgap: 2, ygap: 2,
        text: means.map(row => row.map(value => isSmall && value !== null ? written(Number(value.toPrecision(3))) : "")), texttemplate: "%{text}",
        colorscale: "Viridis", reversescale: !one.higher, showscale: !isSmall, hoverongaps: false,
        colorbar: { title: { text: escaped(one.isLog ? `log10 of ${one.title}` : one.title), side: "right" }, thickness: 12, outlinewidth: 0 },
      }], {
        x: { text: data.columns[across], tickvals: columns.map((_, place) => place), ticktext: columns.map(value => escaped(short(text(across, value), 14))), showgrid: false },
        y: { text: data.columns[down], tickvals: rows.map((_, place) => place), ticktext: rows.map(value => escaped(short(text(down, value), 18))), showgrid: false },
        title: logged(one.title, one.isLog),
      });
    };
  });
}

// --- a search -------------------------------------------------------------------------------------------------------

function search() {
  const first = newPlot("search"), one = data.quantities[0];
  const drawers = [() => {
    let best = null;
    const numbers = data.history.map((_, place) => place + 1);
    const values = data.history.map(([, , value]) => value);
    const bests = values.map(value => best = best === null ? value : one.higher ? Math.max(best, value) : Math.min(best, value));
    const shown = data.history.map(([place], run) => [place, run]).filter(([place]) => isShown(place));
    draw(first, [
      { x: shown.map(([, run]) => run + 1), y: shown.map(([, run]) => values[run]), type: "scatter", mode: "markers", customdata: shown.map(([place]) => place),
        hoverinfo: "text", hovertext: shown.map(([place, run]) => `${escaped(name(place))}<br>run ${run + 1}, seed ${escaped(data.history[run][1])}: ${written(values[run])}`),
        marker: { size: 6, color: style("--soft"), opacity: 0.7 } },
      { x: numbers, y: bests, type: "scatter", mode: "lines", line: { shape: "hv", color: style("--accent"), width: 2 }, hoverinfo: "text",
        hovertext: bests.map((value, run) => `best of ${run + 1} runs: ${written(value)}`) },
    ], { x: { text: "run, in the order of their starts", range: [0.5, numbers.length + 0.5] }, y: { text: logged(one.title, one.isLog), type: one.isLog ? "log" : "linear" },
         title: "The best so far", ...floorShapes(one.floor, "y", one.isLog) });
  }];
  if (data.importance) {
    const second = newPlot("search");
    const order = data.importance.share.map((share, column) => [share, column]).sort((a, b) => a[0] - b[0]);
    drawers.push(() => draw(second, [{
      type: "bar", orientation: "h", x: order.map(([share]) => 100 * share), y: order.map((_, row) => row), hoverinfo: "text",
      hovertext: order.map(([share, column]) => `${escaped(data.columns[column])}: ${Math.round(100 * share)} %`), marker: { color: style("--accent") },
    }], {
      x: { text: "share of the importance, %", rangemode: "tozero" }, y: { tickvals: order.map((_, row) => row), ticktext: order.map(([, column]) => escaped(short(data.columns[column], 40))), showgrid: false },
      title: "What matters", bargap: 0.45,
    }));
    byId("search").querySelector(".note").textContent =
      "Importance: how much worse a random forest predicts the order of the settings once a key is shuffled. " +
      `Of settings that it has not seen it explains ${Math.round(100 * data.importance.explained)} % of the variance of ranks.`;
  }
  return drawers;
}

// --- curves ---------------------------------------------------------------------------------------------------------

const AXES = { steps: "step", images: "real images", seconds: "time, s" };

// A line's steps as steps, real images, or seconds of training.
function along(line) {
  const steps = data.steps[line.steps], clock = data.clocks[line.setting];
  if (state.against === "steps") return steps;
  if (state.against === "images") return clock.images === null ? steps.map(() => null) : steps.map(step => step * clock.images);
  if (!clock.seconds) return steps.map(() => null);
  const known = data.steps[clock.steps];
  let place = 0;
  return steps.map(step => {
    while (place < known.length - 2 && known[place + 1] < step) place += 1;
    if (known.length < 2) return clock.seconds[0];
    const part = (step - known[place]) / (known[place + 1] - known[place]);
    return Math.max(0, clock.seconds[place] + part * (clock.seconds[place + 1] - clock.seconds[place]));
  });
}

// The range that the means fill, so that a wide band or a few outliers do not flatten all else; zoom out to see these.
function rangeOf(chart, lines) {
  const values = lines.flatMap(line => line.mean).filter(value => value !== null && (!chart.isLog || value > 0));
  if (chart.floor !== null && (!chart.isLog || chart.floor > 0)) values.push(chart.floor);
  if (!values.length) return {};
  values.sort((a, b) => a - b);
  let [low, high] = [values[0], values[values.length - 1]];
  if (chart.isLog) {
    [low, high] = [Math.log10(low), Math.log10(high)];
  } else {
    const [first, third] = [0.02, 0.98].map(part => values[Math.round(part * (values.length - 1))]);
    if (high - low > 20 * (third - first) && third > first) [low, high] = [first, third];
  }
  const room = 0.12 * (high - low) || 0.1 * Math.abs(high) || 1;
  const least = chart.isLog || chart.bounds[0] === null ? -Infinity : chart.bounds[0] - room / 6;
  const most = chart.isLog || chart.bounds[1] === null ? Infinity : chart.bounds[1] + room / 6;
  return { range: [Math.max(low - room, Math.min(least, low)), Math.min(high + room, Math.max(most, high))] };
}

function band(line, chart, xs, tint) {
  const kept = xs.map((_, place) => place).filter(place => xs[place] !== null && line.mean[place] !== null && line.half[place] !== null);
  const [least, most] = chart.bounds.map((end, side) => end === null ? (side ? Infinity : -Infinity) : end);
  const smallest = Math.min(...line.mean.filter(value => value > 0)) / 100;
  const low = kept.map(place => Math.max(line.mean[place] - line.half[place], Math.min(least, line.mean[place])));
  const high = kept.map(place => Math.min(line.mean[place] + line.half[place], Math.max(most, line.mean[place])));
  const floor = chart.isLog ? low.map(value => Math.max(value, smallest)) : low;
  const there = kept.map(place => xs[place]);
  return { x: [...there, ...there.slice().reverse()], y: [...high, ...floor.slice().reverse()], type: "scatter", mode: "lines", fill: "toself",
           fillcolor: faint(tint, 0.14), line: { width: 0 }, hoverinfo: "skip", ends: [low, high] };
}

function pointText(line, place, chart) {
  const half = line.half ? line.half[place] : null, mean = line.mean[place];
  const [least, most] = chart.bounds;
  const low = half === null ? null : least === null ? mean - half : Math.max(mean - half, Math.min(least, mean));
  const high = half === null ? null : most === null ? mean + half : Math.min(mean + half, Math.max(most, mean));
  const interval = half === null ? "" : `<br>95 % interval ${written(low)} to ${written(high)}`;
  const seeds = isStudy ? new Set(data.runs.filter(([one]) => one === line.setting).map(([, seed]) => seed)).size : 0;
  const head = isStudy ? `${escaped(name(line.setting))}<br>${seeds === 1 ? "one seed" : `mean of ${seeds} seeds`}, ` : `${escaped(line.name)}<br>`;
  return `${head}step ${data.steps[line.steps][place].toLocaleString("en")}: ${written(mean)}${interval}`;
}

function curves() {
  return data.curves.map(chart => {
    const node = newPlot("curves");
    return () => {
      const lines = isStudy ? chart.lines.filter(line => isShown(line.setting)).slice(0, DRAWN) : chart.lines;
      const bands = [], means = [];
      lines.forEach((line, row) => {
        const place = isStudy ? line.setting : row, xs = along(line), tint = colour(place);
        if (line.half && row < BANDS) bands.push(band(line, chart, xs, tint));
        means.push({
          x: xs, y: line.mean, type: "scatter", mode: line.mean.length < 30 ? "lines+markers" : "lines", marker: { size: 4, color: tint },
          line: { color: tint, width: 1.8, dash: dash(place) }, customdata: isStudy ? xs.map(() => line.setting) : undefined,
          hoverinfo: "text", hovertext: line.mean.map((value, at) => value === null ? "" : pointText(line, at, chart)),
          name: escaped(line.name || ""), showlegend: !isStudy && lines.length > 1,
        });
      });
      draw(node, [...bands, ...means.reverse()], {
        x: { text: AXES[state.against] }, y: { text: chart.isLog ? "logarithmic" : "", type: chart.isLog ? "log" : "linear", ...rangeOf(chart, lines) },
        title: chart.title, ...floorShapes(chart.floor, "y", chart.isLog), showlegend: !isStudy && lines.length > 1,
        legend: { orientation: "h", y: -0.25, font: { size: 11 }, traceorder: "reversed" },
      });
    };
  });
}

// --- all together ---------------------------------------------------------------------------------------------------

const drawers = [];
if (isStudy) {
  if (data.quantities.length) {
    drawers.push(intervals());
    drawers.push(...against());
    if (data.columns.length >= 3) drawers.push(parallel());
    drawers.push(...maps());
  }
  if (data.history) drawers.push(...search());
}
drawers.push(...curves());

function update() {
  for (const button of document.querySelectorAll(".toggle")) {
    button.setAttribute("aria-pressed", String(isShown(Number(button.dataset.setting))));
  }
  for (const figure of document.querySelectorAll("figure[data-setting]")) {
    figure.hidden = isStudy && !isShown(Number(figure.dataset.setting));
  }
  if (byId("shown")) {
    const count = shownSettings().length;
    const drawn = count > DRAWN ? `, curves of the best ${DRAWN} of these` : "";
    byId("shown").textContent = count < settings.length || drawn ? `${count} of ${settings.length} shown${drawn}` : "";
  }
  for (const drawer of drawers) drawer();
}

// --- controls -------------------------------------------------------------------------------------------------------

for (const button of document.querySelectorAll(".toggle")) {
  const place = Number(button.dataset.setting);
  button.style.setProperty("--line", `var(--c${place % COLOURS})`);
  button.style.setProperty("--dash", { solid: "none", dash: "6 3", dot: "2 2", dashdot: "6 2 2 2" }[dash(place)]);
  button.addEventListener("click", () => toggle([place]));
}

if (byId("all")) {
  byId("all").addEventListener("click", () => { state.hidden.clear(); update(); });
  byId("none").addEventListener("click", () => { state.hidden = new Set(settings.keys()); update(); });
  const select = byId("value");
  data.quantities.forEach((one, place) => select.append(new Option(one.title, place)));
  select.addEventListener("change", () => { state.value = Number(select.value); update(); });
}

byId("against-what").addEventListener("change", event => { state.against = event.target.value; update(); });

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {  // not in every browser for a page from a file
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

const sortKey = cell => cell.dataset.key !== undefined ? Number(cell.dataset.key) : cell.textContent.trim();
const collator = new Intl.Collator("en", { numeric: true });

function compare(one, other) {
  const missing = key => key === "" || key === "–" || Number.isNaN(key);
  if (missing(one) || missing(other)) return missing(one) - missing(other);
  return typeof one === "number" && typeof other === "number" ? one - other : collator.compare(one, other);
}

for (const table of document.querySelectorAll("table")) {
  const heads = [...table.querySelectorAll("th")], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const isDescending = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
    const rows = [...body.rows].map(row => [sortKey(row.cells[column]), row]);
    const isMissing = key => key === "" || key === "–";
    rows.sort(([one], [other]) => isMissing(one) || isMissing(other) ? compare(one, other) : (isDescending ? -1 : 1) * compare(one, other));
    body.append(...rows.map(([, row]) => row));
  }));
}

for (const input of document.querySelectorAll(".filter")) {
  const table = input.parentElement.querySelector("table"), isSettings = table.classList.contains("settings");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = row => {
      const label = isSettings ? settings[Number(row.dataset.setting)].label : "";
      const text = `${[...row.cells].map(cell => cell.textContent).join(" ")} ${label}`.toLowerCase();
      return words.every(word => text.includes(word));
    };
    for (const row of table.tBodies[0].rows) row.hidden = !matches(row);
    if (isSettings) {
      const rows = [...table.tBodies[0].rows].filter(row => !row.hidden);
      state.matching = words.length ? new Set(rows.map(row => Number(row.dataset.setting))) : null;
      update();
    }
  });
}

for (const figure of document.querySelectorAll("figure[data-album]")) {
  const [place, , pictures] = data.albums[Number(figure.dataset.album)];
  const image = figure.querySelector("img");
  pictures[pictures.length - 1][1] = image.src;
  if (isStudy) figure.querySelector(".name").textContent = shortName(place);
}

function showStep(step) {
  for (const figure of document.querySelectorAll("figure[data-album]")) {
    const pictures = data.albums[Number(figure.dataset.album)][2];
    const [at, source] = pictures.filter(([one]) => one <= step).pop() || pictures[0];
    figure.querySelector("img").src = source;
    figure.querySelector(".at").textContent = `step ${at.toLocaleString("en")}`;
  }
}

if (byId("step")) {
  byId("step").addEventListener("input", event => {
    const step = data.pictureSteps[Number(event.target.value)];
    byId("step-text").textContent = step.toLocaleString("en");
    showStep(step);
  });
}

for (const query of ["(prefers-color-scheme: dark)", "(max-width: 700px)", "print"]) {
  matchMedia(query).addEventListener("change", update);  // paper is white
}
update();
