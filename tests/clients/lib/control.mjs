// Doing things to nodes and their links, by a program that whoever runs them gives.

import { spawn } from 'node:child_process';
import { once } from 'node:events';

/**
 * Does things to nodes by the program that was given: kills and starts the node at place b, which is `node`
 * there, or others by their names, and cuts and heals links.
 */
export function controlOf(command, node) {
  const tell = async (...words) => {
    const child = spawn(`${command} ${words.join(' ')}`, { shell: true, stdio: ['ignore', 'ignore', 'inherit'] });
    const [code] = await once(child, 'exit');
    if (code !== 0) throw new Error(`${command} ${words.join(' ')} ended with ${code}`);
  };
  const [down, frozen, apart, slow] = [new Set(), new Set(), new Set(), new Set()];
  const control = {
    kill: async (name = node) => {
      down.add(name);
      await tell('kill', name);
    },
    start: async (name = node) => {
      await tell('start', name);
      down.delete(name);
    },
    /** A frozen node is like a machine that sleeps. */
    freeze: async (name = node) => {
      frozen.add(name);
      await tell('freeze', name);
    },
    thaw: async (name = node) => {
      await tell('thaw', name);
      frozen.delete(name);
    },
    cut: async (one, other) => {
      apart.add(`${one} ${other}`);
      await tell('cut', one, other);
    },
    heal: async (one, other) => {
      await tell('heal', one, other);
      apart.delete(`${one} ${other}`);
    },
    slow: async (one, other) => {
      slow.add(`${one} ${other}`);
      await tell('slow', one, other);
    },
    fast: async (one, other) => {
      await tell('fast', one, other);
      slow.delete(`${one} ${other}`);
    },
    /** What a scenario leaves dead, frozen, apart or slow would fail the next one, too. */
    restore: async () => {
      for (const name of frozen) await control.thaw(name);
      for (const name of down) await control.start(name);
      for (const names of apart) await control.heal(...names.split(' '));
      for (const names of slow) await control.fast(...names.split(' '));
    },
  };
  return control;
}
