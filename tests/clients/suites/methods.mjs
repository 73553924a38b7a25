// Request and response: registering, discovering, choosing a server, calling it, and its end.

import assert from 'node:assert/strict';
import { scenario } from '../lib/scenario.mjs';
import { sees, seesServer, sameInstance, eventsOf } from '../lib/interop.mjs';

export default [
  scenario('E04 register here, invoke there', async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Add');
    await provider.interop.register({ name, accepts: 'int a, int b', returns: 'int sum' }, ({ a, b }) => ({ sum: a + b }));
    await until(() => sees(consumer, name));
    const result = await consumer.interop.invoke(name, { a: 37, b: 5 });
    assert.equal(result.returned.sum, 42);
    assert.deepEqual(result.called_with, { a: 37, b: 5 });
    assert.equal(result.all_return_values.length, 1);
  }),

  scenario('the definition arrives whole', async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Described');
    const definition = {
      name,
      accepts: 'String? text',
      returns: 'Bool ok',
      displayName: 'Described',
      description: 'ünïcode ✓',
      objectTypes: ['Instrument', 'Party'],
      version: 3,
      flags: { intent: { contextTypes: ['Instrument'], nested: { deep: [1, null, 'x'] } } },
    };
    await provider.interop.register(definition, () => {});
    const [method] = await until(() => sees(consumer, name) && consumer.interop.methods({ name }));
    for (const key of Object.keys(definition)) assert.deepEqual(method[key], definition[key], key);
    assert.equal(method.supportsStreaming, false);
    assert.deepEqual(consumer.interop.methods({ name, objectTypes: ['Party'] }).length, 1);
    assert.deepEqual(consumer.interop.methods({ name, objectTypes: ['Order'] }).length, 0);
  }),

  scenario('what is there before is known at once', async ({ connect, unique, until }) => {
    const provider = await connect('a');
    const names = [unique('Early'), unique('Early')];
    for (const name of names) await provider.interop.register(name, () => {});
    const witness = await connect('b');
    await until(() => names.every((name) => sees(witness, name)));
    const late = await connect('b');
    for (const name of names) assert.ok(sees(late, name), `${name} not known when the library was ready`);
  }),

  scenario('discovery events on the other side', async ({ connect, unique, until, leave }) => {
    const consumer = await connect('b');
    const events = eventsOf(consumer);
    const provider = await connect('a');
    const me = provider.interop.instance;
    const [first, second] = [unique('First'), unique('Second')];
    await until(() => events.has('serverAdded', me.instance), 5000, 'serverAdded');

    await provider.interop.register(first, () => {});
    await provider.interop.register(second, () => {});
    for (const name of [first, second]) {
      await until(() => events.has('methodAdded', name), 5000, 'methodAdded');
      await until(() => events.has('serverMethodAdded', `${me.instance} ${name}`), 5000, 'serverMethodAdded');
    }

    await provider.interop.unregister(first);
    await until(() => events.has('methodRemoved', first), 5000, 'methodRemoved');
    await until(() => events.has('serverMethodRemoved', `${me.instance} ${first}`), 5000, 'serverMethodRemoved');
    assert.ok(!events.has('methodRemoved', second));

    await leave(provider);
    await until(() => events.has('serverRemoved', me.instance), 5000, 'serverRemoved');
    await until(() => events.has('methodRemoved', second), 5000, 'methodRemoved of a leaver');
    await until(() => events.has('serverMethodRemoved', `${me.instance} ${second}`), 5000, 'serverMethodRemoved of a leaver');
    assert.deepEqual(events.repeated(), []);
  }),

  scenario('methodAdded once for two servers', async ({ connect, unique, until, leave }) => {
    const consumer = await connect('b');
    const events = eventsOf(consumer);
    const [one, two] = await Promise.all([connect('a'), connect('b')]);
    const name = unique('Shared');
    await one.interop.register(name, () => {});
    await two.interop.register(name, () => {});
    await until(() => consumer.interop.servers({ name }).length === 2);
    await leave(one);
    await until(() => consumer.interop.servers({ name }).length === 1);
    assert.equal(events.count('methodAdded', name), 1);
    assert.equal(events.count('methodRemoved', name), 0);
    await leave(two);
    await until(() => events.has('methodRemoved', name));
  }),

  scenario('servers and methods can be listed', async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Listed');
    await provider.interop.register(name, () => {});
    await until(() => sees(consumer, name));
    const [server] = consumer.interop.servers({ name });
    sameInstance(server, provider.interop.instance);
    assert.ok(server.getMethods().some((method) => method.name === name));
    assert.ok(consumer.interop.methodsForInstance(server).some((method) => method.name === name));
    const [method] = consumer.interop.methods({ name });
    sameInstance(method.getServers()[0], provider.interop.instance);
  }),

  scenario('B-ME-1 waitForMethod resolves when it appears', { libs: ['io'] }, async ({ pair, unique, within }) => {
    const [provider, consumer] = await pair();
    const name = unique('Awaited');
    const appeared = consumer.interop.waitForMethod(name);
    await provider.interop.register(name, () => {});
    assert.equal((await within(5000, appeared)).name, name);
  }),

  scenario('E04 B-ME-3 all reaches both sides', async ({ connect, unique, until }) => {
    const [atA, atB, consumer] = await Promise.all([connect('a'), connect('b'), connect('b')]);
    const name = unique('Everyone');
    await atA.interop.register(name, () => ({ place: 'a' }));
    await atB.interop.register(name, () => ({ place: 'b' }));
    await until(() => consumer.interop.servers({ name }).length === 2);
    const result = await consumer.interop.invoke(name, {}, 'all');
    const answers = result.all_return_values;
    assert.deepEqual(answers.map(({ returned }) => returned.place).sort(), ['a', 'b']);
    for (const { executed_by, returned } of answers) {
      sameInstance(executed_by, (returned.place === 'a' ? atA : atB).interop.instance);
    }
  }),

  scenario('B-ME-3 all with one failing server resolves and tells', async ({ connect, unique, until }) => {
    const [atA, atB, consumer] = await Promise.all([connect('a'), connect('b'), connect('b')]);
    const name = unique('Half');
    await atA.interop.register(name, () => {
      throw new Error('only half of me works');
    });
    await atB.interop.register(name, () => ({ fine: true }));
    await until(() => consumer.interop.servers({ name }).length === 2);
    const result = await consumer.interop.invoke(name, {}, 'all');
    assert.equal(result.all_return_values.length, 1);
    assert.equal(result.all_return_values[0].returned.fine, true);
    assert.equal(result.all_errors.length, 1);
    assert.match(result.all_errors[0].message, /only half of me works/);
  }),

  scenario('B-ME-3 all fail', async ({ connect, unique, until, rejection }) => {
    const [atA, atB, consumer] = await Promise.all([connect('a'), connect('b'), connect('b')]);
    const name = unique('Fails');
    for (const [client, place] of [[atA, 'a'], [atB, 'b']]) {
      await client.interop.register(name, () => {
        throw new Error(`not at ${place}`);
      });
    }
    await until(() => consumer.interop.servers({ name }).length === 2);
    const { error } = await rejection(consumer.interop.invoke(name, {}, 'all'));
    assert.deepEqual(error.all_errors.map(({ message }) => /not at [ab]/.exec(message)?.[0]).sort(), ['not at a', 'not at b']);
  }),

  scenario('E04 B-ME-5 skipMine leaves the caller out', async ({ connect, unique, until }) => {
    const [atA, atB, consumer] = await Promise.all([connect('a'), connect('b'), connect('b')]);
    const name = unique('Others');
    for (const [client, place] of [[atA, 'a'], [atB, 'b'], [consumer, 'own']]) {
      await client.interop.register(name, () => ({ place }));
    }
    await until(() => consumer.interop.servers({ name }).length === 3);
    const result = await consumer.interop.invoke(name, {}, 'skipMine');
    assert.deepEqual(result.all_return_values.map(({ returned }) => returned.place).sort(), ['a', 'b']);
    const own = await consumer.interop.invoke(name);
    assert.equal(own.returned.place, 'own', 'best is the own method');
  }),

  scenario('E04 B-ME-5 an instance can be chosen', async ({ connect, unique, until }) => {
    const [one, two, consumer] = await Promise.all([connect('a'), connect('a'), connect('b')]);
    const name = unique('Chosen');
    for (const client of [one, two]) {
      await client.interop.register(name, () => ({ by: client.interop.instance.instance }));
    }
    await until(() => consumer.interop.servers({ name }).length === 2);
    for (const { instance } of [one.interop, two.interop]) {
      for (const target of [{ instance: instance.instance }, { application: instance.application }, { peerId: instance.peerId }]) {
        const result = await consumer.interop.invoke(name, {}, target);
        assert.equal(result.returned.by, instance.instance, JSON.stringify(target));
        assert.equal(result.all_return_values.length, 1);
      }
    }
    const both = [one, two].map(({ interop }) => ({ instance: interop.instance.instance }));
    const result = await consumer.interop.invoke(name, {}, both);
    assert.equal(result.all_return_values.length, 2);
  }),

  scenario('E04 a whole server object is a target', async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Whole');
    await provider.interop.register(name, () => ({ ok: true }));
    const [server] = await until(() => sees(consumer, name) && consumer.interop.servers({ name }));
    assert.equal((await consumer.interop.invoke(name, {}, server)).returned.ok, true);
  }),

  scenario('B-ME-5 machine and user are filters', async ({ pair, unique, until, rejection }) => {
    const [provider, consumer] = await pair();
    const name = unique('Machine');
    await provider.interop.register(name, () => ({ ok: true }));
    await until(() => sees(consumer, name));
    const { machine, user } = provider.interop.instance;
    assert.equal((await consumer.interop.invoke(name, {}, { machine })).returned.ok, true);
    assert.equal((await consumer.interop.invoke(name, {}, { machine, user })).returned.ok, true);
    await rejection(consumer.interop.invoke(name, {}, { machine: unique('nowhere') }, { waitTimeoutMs: 600 }));
  }),

  scenario('E04 results keep their type', async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Returns');
    const when = new Date(1_700_000_000_123);
    const values = {
      number: 5.25,
      zeroInside: { zero: 0, no: false, empty: '', nothing: null },
      text: 'plain',
      yes: true,
      list: [1, 'two', { three: 3 }],
      nested: { a: { b: { c: [{ d: [] }, {}] } } },
      date: { when, list: [when] },
    };
    await provider.interop.register(name, ({ kind }) => values[kind]);
    await until(() => sees(consumer, name));
    const returned = async (kind) => (await consumer.interop.invoke(name, { kind })).returned;
    assert.deepEqual(await returned('number'), { _value: 5.25 });
    assert.deepEqual(await returned('text'), { _value: 'plain' });
    assert.deepEqual(await returned('yes'), { _value: true });
    assert.deepEqual(await returned('list'), { _value: values.list });
    assert.deepEqual(await returned('nothing at all'), {});
    for (const kind of ['zeroInside', 'nested', 'date']) assert.deepEqual(await returned(kind), values[kind]);
    assert.ok((await returned('date')).when instanceof Date);
  }),

  scenario('arguments keep their type', async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Takes');
    const seen = [];
    await provider.interop.register(name, (args) => void seen.push(args));
    await until(() => sees(consumer, name));
    const args = { when: new Date(1), list: [null, {}, []], '': 'empty key', 'a.b': 'dotted', deep: { x: { y: [0.1, -0, 1e300] } } };
    await consumer.interop.invoke(name, args);
    await consumer.interop.invoke(name);
    assert.deepEqual(JSON.stringify(seen[0]), JSON.stringify(args));
    assert.ok(seen[0].when instanceof Date);
    assert.deepEqual(seen[1], {});
  }),

  scenario('any text travels', async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Echo');
    await provider.interop.register(name, ({ text }) => ({ text }));
    await until(() => sees(consumer, name));
    const texts = [
      'zażółć gęślą jaźń', '日本語 🦀 👩‍👩‍👧', '\u0000\u0001\u001f', 'a\u2028b\u2029c', '\ud800', 'x\udc00\ud800y',
      '\\ud800', '"quoted" \\ / \b\f\n\r\t', '\ufeff', '\uffff', '</script>',
    ];
    for (const text of texts) {
      const { returned } = await consumer.interop.invoke(name, { text });
      assert.equal(returned.text, text, JSON.stringify(text));
    }
  }),

  scenario('a megabyte each way', async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Big');
    await provider.interop.register(name, ({ text }) => ({ text: [...text].reverse().join(''), length: text.length }));
    await until(() => sees(consumer, name));
    const text = 'äb"\\\n🦀 '.repeat(128 * 1024);
    const { returned } = await consumer.interop.invoke(name, { text });
    assert.equal(returned.length, text.length);
    assert.ok(returned.text === [...text].reverse().join(''), 'the text differs');
  }),

  scenario('B-ME-10 ten megabytes each way', { alone: true }, async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Large');
    await provider.interop.register(name, ({ text }) => ({ text }));
    await until(() => sees(consumer, name));
    const text = 'x'.repeat(10_000_000);
    const { returned } = await consumer.interop.invoke(name, { text });
    assert.ok(returned.text === text, 'the text differs');
    assert.equal((await consumer.interop.invoke(name, { text: 'small' })).returned.text, 'small');
  }),

  // 17 MB are above the limit of a message; the session and its other calls go on.
  scenario('B-ME-10 a result that is too large is refused by name', { alone: true }, async ({ pair, unique, until, rejection }) => {
    const [provider, consumer] = await pair();
    const name = unique('TooLarge');
    await provider.interop.register(name, ({ size }) => ({ text: 'x'.repeat(size) }));
    await until(() => sees(consumer, name));
    const { peerId } = provider.interop.instance;
    const { reason } = await rejection(consumer.interop.invoke(name, { size: 17_000_000 }), 10_000);
    assert.match(reason, /message_bytes_max/);
    assert.equal((await consumer.interop.invoke(name, { size: 1 })).returned.text, 'x');
    assert.equal(provider.interop.instance.peerId, peerId, 'it was not thrown out');
  }),

  scenario('E04 a thrown error rejects', async ({ pair, unique, until, rejection }) => {
    const [provider, consumer] = await pair();
    const name = unique('Throws');
    await provider.interop.register(name, ({ how }) => {
      if (how === 'error') throw new Error('no such instrument');
      if (how === 'text') throw 'just text';
      return Promise.reject(new Error('rejected later'));
    });
    await until(() => sees(consumer, name));
    const failed = async (how) => (await rejection(consumer.interop.invoke(name, { how }))).error;
    assert.match((await failed('error')).message, /no such instrument/);
    assert.match((await failed('text')).message, /just text/);
    const error = await failed('later');
    assert.match(error.message, /rejected later/);
    sameInstance(error.executed_by, provider.interop.instance);
  }),

  scenario('E04 registerAsync answers through its callbacks', async ({ pair, unique, until, rejection }) => {
    const [provider, consumer] = await pair();
    const name = unique('Async');
    await provider.interop.registerAsync(name, ({ fail }, caller, success, error) => {
      setTimeout(() => (fail ? error('told so') : success({ by: caller.application })), 20);
    });
    await until(() => sees(consumer, name));
    const { returned } = await consumer.interop.invoke(name, {});
    assert.equal(returned.by, consumer.interop.instance.application);
    assert.match((await rejection(consumer.interop.invoke(name, { fail: true }))).reason, /told so/);
  }),

  scenario('a slow call holds up nobody', { alone: true }, async ({ pair, unique, until, sleep }) => {
    const [provider, consumer] = await pair();
    const name = unique('Slow');
    await provider.interop.register(name, async ({ ms }) => {
      if (ms) await sleep(ms);
      return { ms };
    });
    await until(() => sees(consumer, name));
    const start = performance.now();
    const slow = consumer.interop.invoke(name, { ms: 2000 });
    const fast = await Promise.all(Array.from({ length: 50 }, () => consumer.interop.invoke(name, { ms: 0 })));
    const fastMs = performance.now() - start;
    assert.equal(fast.length, 50);
    assert.ok(fastMs < 1000, `50 fast calls took ${Math.round(fastMs)} ms beside a slow one`);
    assert.equal((await slow).returned.ms, 2000);
  }),

  scenario('answers find their calls', async ({ pair, unique, until, sleep }) => {
    const [provider, consumer] = await pair();
    const name = unique('Shuffled');
    await provider.interop.register(name, async ({ index }) => {
      await sleep((index * 7) % 30);
      return { index };
    });
    await until(() => sees(consumer, name));
    const results = await Promise.all(Array.from({ length: 200 }, (_, index) => consumer.interop.invoke(name, { index })));
    results.forEach(({ returned }, index) => assert.equal(returned.index, index));
  }),

  scenario('calls arrive in the order they were made', async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Ordered');
    const seen = [];
    await provider.interop.register(name, ({ index }) => void seen.push(index));
    await until(() => sees(consumer, name));
    await Promise.all(Array.from({ length: 300 }, (_, index) => consumer.interop.invoke(name, { index })));
    assert.deepEqual(seen, Array.from({ length: 300 }, (_, index) => index));
  }),

  scenario('an unknown method rejects within the wait timeout', { alone: true }, async ({ connect, unique, rejection }) => {
    const consumer = await connect('b');
    const { reason, ms } = await rejection(consumer.interop.invoke(unique('Nobody'), {}, 'best', { waitTimeoutMs: 1000 }));
    assert.match(reason, /Can not find a method/);
    assert.ok(ms < 2000, `took ${Math.round(ms)} ms`);
  }),

  scenario('E04 the response timeout is the caller’s', { alone: true }, async ({ pair, unique, until, rejection }) => {
    const [provider, consumer] = await pair();
    const name = unique('Never');
    await provider.interop.register(name, () => new Promise(() => {}));
    await until(() => sees(consumer, name));
    const { reason, ms } = await rejection(consumer.interop.invoke(name, {}, 'best', { methodResponseTimeoutMs: 700 }));
    assert.match(reason, /timeout/i);
    assert.ok(ms < 2000, `took ${Math.round(ms)} ms`);
  }),

  scenario('B-ME-7 an invoke waits for its method to appear', async ({ pair, unique, sleep, within }) => {
    const [provider, consumer] = await pair();
    const name = unique('Later');
    const pending = consumer.interop.invoke(name, { x: 1 }, 'best', { waitTimeoutMs: 8000 });
    await sleep(300);
    await provider.interop.register(name, ({ x }) => ({ x }));
    assert.equal((await within(5000, pending)).returned.x, 1);
  }),

  scenario('unregister, and register again', async ({ pair, unique, until, rejection }) => {
    const [provider, consumer] = await pair();
    const name = unique('Again');
    for (const round of [1, 2, 3]) {
      await provider.interop.register(name, () => ({ round }));
      await until(() => sees(consumer, name));
      assert.equal((await consumer.interop.invoke(name)).returned.round, round);
      await provider.interop.unregister(name);
      await until(() => !sees(consumer, name));
      assert.ok(seesServer(consumer, provider));
    }
    await rejection(consumer.interop.invoke(name, {}, 'best', { waitTimeoutMs: 600 }));
  }),

  scenario('registering a name twice is refused', async ({ connect, unique, rejection }) => {
    const provider = await connect('a');
    const name = unique('Twice');
    await provider.interop.register(name, () => {});
    assert.match((await rejection(provider.interop.register(name, () => {}))).reason, /already exists/);
  }),

  scenario('E04 a callee that leaves ends its calls', { alone: true }, async ({ pair, unique, until, rejection, leave }) => {
    const [provider, consumer] = await pair();
    const name = unique('Leaver');
    let called = false;
    await provider.interop.register(name, () => {
      called = true;
      return new Promise(() => {});
    });
    await until(() => sees(consumer, name));
    const pending = rejection(consumer.interop.invoke(name), 10_000);
    await until(() => called);
    const left = performance.now();
    leave(provider);
    await pending;
    const ms = performance.now() - left;
    assert.ok(ms < 3000, `took ${Math.round(ms)} ms`);
  }),

  scenario('E04 B-ME-6 a callee that is killed ends its calls', { alone: true }, async ({ app, connect, unique, until, rejection }) => {
    const name = unique('Victim');
    const [victim, consumer] = await Promise.all([app('a', { offers: { method: name } }), connect('b')]);
    await until(() => sees(consumer, name));
    const pending = rejection(consumer.interop.invoke(name, { hang: true }), 10_000);
    await until(() => victim.messages.some(({ called }) => called));
    const killed = performance.now();
    await victim.kill();
    await pending;
    const ms = performance.now() - killed;
    assert.ok(ms < 3000, `took ${Math.round(ms)} ms`);
    await until(() => !consumer.interop.servers().some(({ instance }) => instance === victim.instance.instance));
  }),

  scenario('B-ME-2 the handler learns who calls', async ({ pair, unique, until }) => {
    const [provider, consumer] = await pair();
    const name = unique('Who');
    const callers = [];
    await provider.interop.register(name, (_, caller) => void callers.push(caller));
    await until(() => sees(consumer, name));
    const result = await consumer.interop.invoke(name);
    sameInstance(callers[0], consumer.interop.instance);
    sameInstance(result.executed_by, provider.interop.instance);
  }),

  scenario('isLocal tells the own node', async ({ pair, unique, until, twoNodes }) => {
    const [provider, consumer] = await pair();
    const name = unique('Local');
    await provider.interop.register(name, (_, caller) => ({ callerLocal: caller.isLocal }));
    await until(() => sees(consumer, name));
    const { returned, executed_by } = await consumer.interop.invoke(name);
    assert.equal(executed_by.isLocal, !twoNodes);
    assert.equal(returned.callerLocal, !twoNodes);
    assert.equal(consumer.interop.instance.isLocal, true);
  }),

  scenario('E04 B-ME-4 the local server wins, and the remote one steps in', async ({ connect, unique, until, leave, twoNodes }) => {
    const name = unique('Preferred');
    const offer = async (place) => {
      const provider = await connect(place);
      await provider.interop.register(name, () => ({ place }));
      return provider;
    };
    const answer = async () => (await consumer.interop.invoke(name)).returned.place;
    const consumer = await connect('b');

    await offer('a');
    await until(() => consumer.interop.servers({ name }).length === 1);
    assert.equal(await answer(), 'a', 'the remote one serves alone');

    const local = await offer('b');
    await until(() => consumer.interop.servers({ name }).length === 2);
    // On one node both are local, and the one that was announced first is asked.
    assert.equal(await answer(), twoNodes ? 'b' : 'a', 'the local one wins');

    await leave(local);
    await until(() => consumer.interop.servers({ name }).length === 1);
    assert.equal(await answer(), 'a', 'the remote one steps in');

    await offer('b');
    await until(() => consumer.interop.servers({ name }).length === 2);
    assert.equal(await answer(), twoNodes ? 'b' : 'a', 'the local one is back');
  }),

  scenario('calls run both ways at once', async ({ pair, unique, until }) => {
    const [one, two] = await pair();
    const name = unique('PingPong');
    const [there, back] = [`${name}.there`, `${name}.back`];
    await one.interop.register(there, async ({ depth }) => {
      if (depth === 0) return { bottom: true };
      return (await one.interop.invoke(back, { depth: depth - 1 })).returned;
    });
    await two.interop.register(back, async ({ depth }) => {
      if (depth === 0) return { bottom: true };
      return (await two.interop.invoke(there, { depth: depth - 1 })).returned;
    });
    await until(() => sees(two, there) && sees(one, back));
    assert.equal((await two.interop.invoke(there, { depth: 20 })).returned.bottom, true);
  }),

  scenario('E04 an app calls itself', async ({ connect, unique }) => {
    const client = await connect('a');
    const name = unique('Self');
    await client.interop.register(name, (_, caller) => ({ caller: caller.peerId }));
    const { returned, executed_by } = await client.interop.invoke(name);
    assert.equal(returned.caller, client.interop.instance.peerId);
    assert.equal(executed_by.peerId, client.interop.instance.peerId);
  }),
];
