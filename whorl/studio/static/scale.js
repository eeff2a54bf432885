// Axes and numbers for plots: round ticks, linear and logarithmic scales, short labels.

/** Multiples of 1, 2 or 5 × 10ⁿ that cover [low, high]. */
export function roundTicks(low, high, about = 5) {
  const rough = (high - low) / Math.max(about, 1);
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough * 0.999) ?? power * 10;
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, number) => Number(((first + number) * step).toPrecision(12)));
}

/** Round ticks that lie in [low, high]: about so many, and three at least where there are three; whole
    numbers alone where `whole`. */
export function insideTicks(low, high, about = 5, whole = false) {
  const inside = (count) => roundTicks(low, high, count).filter((tick) => tick >= low && tick <= high && (!whole || Number.isInteger(tick)));
  let best = inside(about);
  for (let more = about + 1; best.length < 3 && more <= about + 8; more += 1) {
    const found = inside(more);
    if (found.length > best.length) best = found;
  }
  return best;
}

/** Ticks of a logarithmic axis: 1, 2 and 5 of each power where there is room, else the powers alone. */
export function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of [1, 2, 5]) ticks.push(Number((factor * 10 ** power).toPrecision(12)));
  }
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  if (inside.length < 2) return roundTicks(low, high, 4).filter((tick) => tick > 0);
  return inside.length > 8 ? inside.filter((tick) => Number.isInteger(Math.log10(tick))) : inside;
}

/** A tick in few characters. */
export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${Number((value / 1e9).toPrecision(4))}G`;
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(4))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(4))}k`;
  if (size > 0 && size < 1e-3) return value.toExponential().replace("e-0", "e-");
  return String(Number(value.toPrecision(6)));
}

/** The ticks of one axis, all written alike: none as 0.001 beside 5e-4. */
export function tickWords(ticks) {
  const tiny = ticks.some((tick) => tick !== 0 && Math.abs(tick) < 1e-3);
  return ticks.map((tick) => {
    if (tiny && tick !== 0 && Math.abs(tick) < 1) return Number(tick.toPrecision(6)).toExponential().replace("e-0", "e-");
    return short(tick);
  });
}

/** A value as a person reads it: four significant digits, thousands apart. */
export function exact(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "not finite";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return size > 0 && size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

/** The same scale both ways: `at(value)` in pixels, `from(pixel)`. */
export function scale([low, high], [start, end], log = false) {
  const word = log ? Math.log : (value) => value;
  const [a, b] = [word(low), word(high)];
  const span = b - a || 1;
  return {
    at: (value) => start + ((word(value) - a) / span) * (end - start),
    from: (pixel) => {
      const value = a + ((pixel - start) / (end - start)) * span;
      return log ? Math.exp(value) : value;
    },
  };
}

/** The place in the ascending `values` that is nearest to `wanted`. */
export function nearest(values, wanted) {
  let [a, b] = [0, values.length - 1];
  while (b - a > 1) {
    const middle = (a + b) >> 1;
    if (values[middle] < wanted) a = middle;
    else b = middle;
  }
  return Math.abs(values[a] - wanted) <= Math.abs(values[b] - wanted) ? a : b;
}

/** A mean over a window centred on each point, about a thirtieth of the points wide; gaps do not count. */
export function runningMean(values) {
  const reach = Math.max(Math.floor(values.length / 60), 1);
  const sums = [0];
  const counts = [0];
  for (const value of values) {
    const finite = Number.isFinite(value);
    sums.push(sums.at(-1) + (finite ? value : 0));
    counts.push(counts.at(-1) + (finite ? 1 : 0));
  }
  return values.map((_, place) => {
    const span = Math.min(reach, place, values.length - 1 - place);
    const count = counts[place + span + 1] - counts[place - span];
    return count ? (sums[place + span + 1] - sums[place - span]) / count : null;
  });
}
