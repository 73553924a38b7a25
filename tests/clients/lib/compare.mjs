// Compares what two gateways said in one conversation, and tells where they differ.

import { isDeepStrictEqual } from 'node:util';
import { inPromisedOrder } from './transcript.mjs';

const SHOWN_MAX = 12;
const WIDTH = 400;

/**
 * Compares two transcripts; `lines` says what differs, and `needed` names the entries without which more would.
 */
export function compare(name, sides, entries) {
  const applicable = entries.filter(({ only }) => !only || only.test(name));
  const framed = applicable.filter(({ whole }) => !whole);
  const same = (some) => isDeepStrictEqual(framesOf(name, sides.reference, 'reference', some), framesOf(name, sides.deskmesh, 'deskmesh', some));
  if (same([])) return { lines: [], needed: [] };
  if (same(framed)) {
    // The smallest set that does: each is left out in turn.
    let needed = framed;
    for (const entry of framed) {
      const rest = needed.filter((other) => other !== entry);
      if (same(rest)) needed = rest;
    }
    return { lines: [], needed: needed.map((entry) => entry.name) };
  }
  const whole = applicable.find((entry) => entry.whole);
  if (whole) return { lines: [], needed: [whole.name] };
  return { lines: differences(name, sides, framed), needed: [] };
}

/** The frames of each peer, after the entries have had their say. */
function framesOf(name, { lists, said }, side, entries) {
  return lists.map(({ title, entries: frames }) => {
    const seen = frames.flatMap(({ frame, ...about }) => {
      const left = entries.reduce((one, entry) => (one && entry.frame ? entry.frame(one, { ...about, script: name, side, said }) : one), frame);
      return left ? [{ ...about, frame: left }] : [];
    });
    const ordered = entries.reduce((list, entry) => (entry.list ? entry.list(list) : list), inPromisedOrder(seen));
    return { title, frames: ordered.map(({ step, frame }) => ({ step, frame })) };
  });
}

/** A diff, peer by peer: `-` is the reference, `+` is deskmesh. */
function differences(name, sides, entries) {
  const [reference, deskmesh] = ['reference', 'deskmesh'].map((side) => framesOf(name, sides[side], side, entries));
  const lines = [];
  for (const title of new Set([...reference, ...deskmesh].map((list) => list.title))) {
    const [left, right] = [reference, deskmesh].map((lists) => lists.find((list) => list.title === title)?.frames ?? []);
    if (isDeepStrictEqual(left, right)) continue;
    lines.push(`${title}: - the reference, + deskmesh`);
    lines.push(...diff(left.map(textOf), right.map(textOf)));
  }
  return lines.length > SHOWN_MAX * 4 ? [...lines.slice(0, SHOWN_MAX * 4), `… ${lines.length - SHOWN_MAX * 4} more lines`] : lines;
}

function textOf({ step, frame }) {
  const sorted = (value) => {
    if (Array.isArray(value)) return value.map(sorted);
    if (value === null || typeof value !== 'object') return value;
    return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
  };
  const { type, ...rest } = frame;
  return `${step === undefined ? '' : `step ${step} `}${type ?? ''} ${JSON.stringify(sorted(rest))}`;
}

/** The lines that only one side has, each run with one line before it. */
function diff(left, right) {
  const longest = Array.from({ length: left.length + 1 }, () => new Uint16Array(right.length + 1));
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      longest[i][j] = left[i] === right[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const lines = [];
  let [i, j, before] = [0, 0, undefined];
  while ((i < left.length || j < right.length) && lines.length < SHOWN_MAX) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      before = left[i];
      i += 1;
      j += 1;
      continue;
    }
    if (before) lines.push(`  ${before.slice(0, WIDTH)}`);
    before = undefined;
    if (j === right.length || (i < left.length && longest[i + 1][j] >= longest[i][j + 1])) lines.push(`- ${left[i++].slice(0, WIDTH)}`);
    else lines.push(`+ ${right[j++].slice(0, WIDTH)}`);
  }
  return lines;
}
