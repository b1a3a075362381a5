// A client on the TypeScript SDK 1.32: `client.mjs URL`, then the line protocol that lines.py describes.
// Imports are resolved from the folder that holds node_modules, which is not this one: see ../client.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.NODE_MODULES_OF}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { Client } = await load('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = await load('@modelcontextprotocol/sdk/client/streamableHttp.js');

/** How long one call may take; longer than the longest tool of any story (90 s). */
const CALL_MS = 150_000;

const say = (line) => process.stdout.write(`${line}\n`);

const textOf = (result) => {
  const text = result.content.map((block) => block.text ?? '').join('');
  if (result.isError) throw new Error(`ToolError: ${text}`);
  return text;
};

const client = new Client({ name: 'story', version: '1' });
// Errors of the GET stream arrive here; they are the transport's own business and end no call.
client.onerror = (error) => console.error(String(error));
const token = process.env.MCP_TOKEN;
const requestInit = token ? { headers: { authorization: `Bearer ${token}` } } : {};
await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2]), { requestInit }));
say('ready');

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.quit) break;
  try {
    const options = { timeout: CALL_MS };
    const ok = order.call
      ? textOf(await client.callTool({ name: order.call, arguments: order.arguments ?? {} }, undefined, options))
      : (await client.listTools(undefined, options)).tools.map((tool) => tool.name).join(', ');
    say(JSON.stringify({ ok }));
  } catch (error) {
    say(JSON.stringify({ error: String(error) }));
  }
}
await client.close();
process.exit(0);
