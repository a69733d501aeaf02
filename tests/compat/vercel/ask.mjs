// Asks one server the same few things with the Vercel AI SDK and prints what came, as one JSON line. `node ask.mjs BASE_URL MODEL`
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';

const [baseURL, model] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: 'direct', baseURL, apiKey: 'none', includeUsage: true });
const asked = {
  model: provider.chatModel(model),
  prompt: 'What is the capital of France?',
  temperature: 0,
  maxOutputTokens: 16,
  maxRetries: 0,
};

const whole = await generateText(asked);
const found = { text: whole.text, finish: whole.finishReason, usage: whole.usage, deltas: [] };

const stream = streamText({ ...asked, onError: () => {} });
for await (const part of stream.fullStream) {
  if (part.type === 'text-delta') found.deltas.push(part.text);
  if (part.type === 'finish') found.streamed = { finish: part.finishReason, usage: part.totalUsage };
}

try {
  await generateText({ ...asked, model: provider.chatModel('no-such-model') });
} catch (error) {
  found.error = { status: error.statusCode, message: error.message, body: error.responseBody };
}
console.log(JSON.stringify(found));
