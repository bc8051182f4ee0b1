// Posts a request and yields the events of its stream as parsed JSON; throws ServerError.

export class ServerError extends Error {
  constructor({ message, type = "", param = null }, status = 0) {
    super(message);
    this.kind = type;
    this.param = param;
    this.status = status;
  }
}

export async function* events(path, body, signal) {
  const response = await reached(() => fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  }));
  if (!response.ok) throw await refusal(response);
  let isDone = false;
  for await (const data of dataLines(response.body)) {
    isDone = data === "[DONE]";
    if (isDone) continue;  // reading to the end keeps the connection
    const event = JSON.parse(data);
    if (event.error) throw new ServerError(event.error);
    yield event;
  }
  if (!isDone) throw new ServerError({ message: "the stream broke off before its end" });
}

export async function getJson(path) {
  const response = await reached(() => fetch(path));
  if (!response.ok) throw await refusal(response);
  return response.json();
}

export async function getText(path) {
  const response = await reached(() => fetch(path));
  if (!response.ok) throw new ServerError({ message: `${path}: ${response.status}` });
  return response.text();
}

async function reached(call) {
  try {
    return await call();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError({ message: `no answer from the gateway at ${location.host}` });
  }
}

async function refusal(response) {
  const text = await response.text();
  try {
    return new ServerError(JSON.parse(text).error, response.status);
  } catch {
    return new ServerError({ message: `${response.status}: ${text.slice(0, 300)}` }, response.status);
  }
}

async function* dataLines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await read(reader);
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6).trimEnd();
    }
  } finally {
    reader.cancel().catch(() => {});  // it may have failed already
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError({ message: "the connection to the gateway broke" });
  }
}
