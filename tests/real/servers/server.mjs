// A server on the TypeScript SDK 1.32 with stateful sessions, as its documentation builds one; the tools of python.py.
// Imports are resolved from the folder that holds node_modules, which is not this one: see ../server.

import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.NODE_MODULES_OF}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { McpServer } = await load('@modelcontextprotocol/sdk/server/mcp.js');
const { StreamableHTTPServerTransport } = await load('@modelcontextprotocol/sdk/server/streamableHttp.js');
const { createMcpExpressApp } = await load('@modelcontextprotocol/sdk/server/express.js');
const { isInitializeRequest } = await load('@modelcontextprotocol/sdk/types.js');
const { z } = await load('zod');

let counted = 0;
const text = (value) => ({ content: [{ type: 'text', text: String(value) }] });

const build = () => {
  const server = new McpServer({ name: 'real', version: '1' });
  const tool = (name, inputSchema, readOnlyHint, run) =>
    server.registerTool(name, { inputSchema, annotations: { readOnlyHint } }, run);
  tool('echo', { text: z.string() }, true, (given) => text(given.text));
  tool('count', {}, false, () => text(++counted));
  tool('sleep', { seconds: z.number() }, false, async ({ seconds }) => {
    await pause(seconds * 1000);
    return text(`slept ${seconds} s`);
  });
  tool('pid', {}, true, () => text(process.pid));
  return server;
};

const transports = new Map();
const app = createMcpExpressApp();

// `--single`: one transport for the whole process, the simplest thing the SDK allows; after a restart a client's stale id
// meets a transport that has seen no `initialize`.
const single = process.argv.includes('--single') && new StreamableHTTPServerTransport({ sessionIdGenerator: randomUUID });
if (single) await build().connect(single);

app.all('/mcp', async (request, response) => {
  if (single) return single.handleRequest(request, response, request.body);
  const known = transports.get(request.headers['mcp-session-id']);
  if (known) return known.handleRequest(request, response, request.body);
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => transports.set(id, transport),
    onsessionclosed: (id) => transports.delete(id),
  });
  // As the SDK's examples do, which the recordings show. A request without an id reaches a transport that has seen no
  // `initialize` and says so itself.
  if (request.headers['mcp-session-id'] && !isInitializeRequest(request.body)) {
    const error = { code: -32001, message: 'Session not found' };
    return response.status(404).json({ jsonrpc: '2.0', error, id: null });
  }
  await build().connect(transport);
  await transport.handleRequest(request, response, request.body);
});

const port = Number(process.argv[process.argv.indexOf('--port') + 1]);
const listener = app.listen(port, '127.0.0.1', () => console.log(`listening ${listener.address().port}`));
