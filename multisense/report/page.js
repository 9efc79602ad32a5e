// Everything works without this but sorting, the map's colours and clips, and the play head.
"use strict";
const $ = (query, within = document) => [...within.querySelectorAll(query)];

// --- tables: a button in every heading sorts by its column; rows of the foot stay

function sortable(table) {
  const heads = $("thead th", table);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    if (head.hasAttribute("aria-label")) button.setAttribute("aria-label", head.getAttribute("aria-label"));
    head.append(button);
    button.addEventListener("click", () => {
      // Numbers fall first: the best is what is looked for; words rise.
      const rows = $("tbody tr", table);
      const isNumber = rows.every((row) => !isNaN(Number(row.cells[column].dataset.v)));
      const before = head.getAttribute("aria-sort");
      const next = before ? (before === "ascending" ? "descending" : "ascending") : isNumber ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      rows.sort((a, b) => compare(a.cells[column].dataset.v, b.cells[column].dataset.v, isNumber, sign));
      table.tBodies[0].append(...rows);
    });
  });
}

function compare(a, b, isNumber, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (isNumber ? a - b : a.localeCompare(b, undefined, { numeric: true }));
}

// --- a select that shows one of several views

function views(select) {
  const shown = $(`[data-view-of="${select.id}"]`);
  const show = () => shown.forEach((view) => (view.hidden = view.dataset.view !== select.value));
  select.addEventListener("change", show);
  show();
}

// --- the play head over the streams

function player(box) {
  const [video] = $("video", box), [drawn] = $("svg", box);
  const [left, right, width] = ["left", "right", "width"].map((name) => Number(drawn.parentElement.dataset[name]));
  const seconds = Number(drawn.parentElement.dataset.seconds), across = width - left - right;
  const head = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const height = drawn.viewBox.baseVal.height;
  head.setAttribute("class", "head");
  head.setAttribute("y1", 14);
  head.setAttribute("y2", height - 20);
  drawn.append(head);
  const move = () => {
    const x = left + across * Math.min(video.currentTime / seconds, 1);
    head.setAttribute("x1", x);
    head.setAttribute("x2", x);
    if (!video.paused && !video.ended) requestAnimationFrame(move);
  };
  for (const event of ["play", "seeked", "timeupdate"]) video.addEventListener(event, move);
  drawn.addEventListener("click", (event) => {
    const at = drawn.getBoundingClientRect();
    const x = ((event.clientX - at.left) / at.width) * width;
    video.currentTime = Math.min(Math.max((seconds * (x - left)) / across, 0), seconds);
  });
  move();
}

// --- the map

const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis
function ramp(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1), k = Math.min(Math.floor(at), RAMP.length - 2);
  return `rgb(${RAMP[k].map((a, i) => Math.round(a + (RAMP[k + 1][i] - a) * (at - k))).join(",")})`;
}
const hue = (i, count) => (count <= 8 ? `var(--c${i})` : `hsl(${Math.round((360 * i) / count)} 65% 52%)`);
const short = (value, of) => ("decimals" in of ? value.toFixed(of.decimals) : Number(value.toPrecision(3)).toString());
const clock = (seconds) => seconds.toFixed(2); // of the log: may count from 1970, and a window must be found by it

function map(data) {
  const [colour] = $("#map-colour"), [layout] = $("#map-layout"), [legend] = $("#map-legend"), [card] = $("#map-card");
  const dots = $("#map circle"), [width, height, edge] = data.frame;
  let places = [];
  const said = (of, i) => {
    const value = of.values[i];
    if (value === null) return "not known";
    return of.classes ? of.classes[value] : `${short(value, of)}${of.units ? " " + of.units : ""}`;
  };
  const named = (i) => `${data.windows[i][0]}, ${clock(data.windows[i][1])} to ${clock(data.windows[i][1] + data.seconds)} s`;

  function paint() {
    const of = data.colours.find((one) => one.name === colour.value);
    const known = of.values.filter((value) => value !== null), low = Math.min(...known), high = Math.max(...known);
    const ink = (value) => (value === null ? "" : of.classes ? hue(value, of.classes.length) : ramp((value - low) / (high - low || 1)));
    dots.forEach((dot, i) => {
      dot.style.fill = ink(of.values[i]);
      dot.classList.toggle("unknown", of.values[i] === null);
      dot.setAttribute("aria-label", `${named(i)}; ${of.name}: ${said(of, i)}`);
    });
    const swatch = (fill, words) => `<span><i style="background:${fill}"></i>${words}</span>`;
    const clean = (words) => words.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`);
    if (!of.classes) {
      const stops = RAMP.map((rgb) => `rgb(${rgb.join(",")})`).join(",");
      legend.innerHTML = `<span>${short(low, of)}</span><i class="ramp" style="background:linear-gradient(90deg,${stops})"></i><span>${short(high, of)} ${clean(of.units)}</span>`;
    } else if (of.classes.length <= 12) {
      legend.innerHTML = of.classes.map((name, i) => swatch(hue(i, of.classes.length), clean(name))).join("");
    } else legend.textContent = `${of.classes.length} different ones`;
  }

  function place() {
    places = data.layouts[layout.value].map(([x, y]) => [edge + x * (width - 2 * edge), edge + (1 - y) * (height - 2 * edge)]);
    dots.forEach((dot, i) => {
      dot.setAttribute("cx", places[i][0]);
      dot.setAttribute("cy", places[i][1]);
    });
  }

  function show(i) {
    dots.forEach((dot, k) => {
      dot.classList.toggle("on", k === i);
      dot.tabIndex = k === i ? 0 : -1; // one stop for the Tab key; arrows go on from here
    });
    const [image] = $("img", card), [caption] = $("figcaption", card);
    image.src = `data:image/jpeg;base64,${data.pictures[i]}`;
    image.alt = `the clip as ${data.sensors.join(", ")}, one below the other`;
    image.hidden = false;
    card.classList.add("filled");
    card.dataset.shown = i;
    const known = data.facts.map((name) => data.colours.find((one) => one.name === name)).filter((of) => of.values[i] !== null);
    const facts = known.map((of) => `${of.name} ${said(of, i)}`);
    const [strong, rest] = [document.createElement("b"), document.createElement("span")];
    strong.textContent = named(i);
    rest.textContent = facts.join(" · ");
    caption.replaceChildren(strong, rest);
  }

  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  function next(from, [dx, dy]) {
    // The nearest dot in a cone of 90 degrees about the arrow.
    let best = from, least = Infinity;
    places.forEach(([x, y], i) => {
      const [a, b] = [x - places[from][0], y - places[from][1]], along = a * dx + b * dy, aside = Math.abs(a * dy) + Math.abs(b * dx);
      if (i !== from && along > 0 && aside <= along && along + aside < least) [best, least] = [i, along + aside];
    });
    return best;
  }
  dots.forEach((dot, i) => {
    dot.addEventListener("pointerenter", () => show(i));
    dot.addEventListener("focus", () => show(i));
    dot.addEventListener("keydown", (event) => {
      if (!(event.key in ways)) return;
      event.preventDefault();
      dots[next(i, ways[event.key])].focus();
    });
  });
  colour.addEventListener("change", paint);
  layout.addEventListener("change", place);
  place();
  paint();
}

$("table.sortable").forEach(sortable);
$("select[data-views]").forEach(views);
$(".player").filter((box) => $("video", box).length).forEach(player);
$("#map-data").forEach((holder) => map(JSON.parse(holder.textContent)));
