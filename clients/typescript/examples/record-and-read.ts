/**
 * Records calls, one of them twice, and reads the usage of the month.
 *
 *     node dist/examples/record-and-read.js 127.0.0.1:50051 acme 3
 */

import { randomUUID } from "node:crypto";

import { credentials, Metadata, type ServiceError } from "@grpc/grpc-js";

import { amountOf, MeteringServiceClient, ServiceState, type CallRecord } from "../src/index.js";

const TIMEOUT_MS = 10_000;

const [target = "127.0.0.1:50051", accountId = "acme", calls = "3"] = process.argv.slice(2);

type Callback<Response> = (error: ServiceError | null, response: Response) => void;

/** Sends one request, with a deadline: without one, an RPC may wait for ever. */
function send<Request, Response>(
  method: (request: Request, metadata: Metadata, options: { deadline: number }, callback: Callback<Response>) => unknown,
  request: Request,
): Promise<Response> {
  return new Promise((resolve, reject) => {
    method.call(metering, request, new Metadata(), { deadline: Date.now() + TIMEOUT_MS }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

/** A call gets its id and its time once, and keeps them however often it is sent. */
function newCall(): CallRecord {
  return { accountId, api: "DetectAuth", callId: randomUUID(), occurredAt: new Date(), resultCode: "" };
}

const metering = new MeteringServiceClient(target, credentials.createInsecure());
try {
  const call = newCall();
  const first = await send(metering.recordCall, call);
  const again = await send(metering.recordCall, call);
  const batch = await send(metering.batchRecordCalls, {
    calls: Array.from({ length: Number(calls) - 1 }, newCall),
  });
  const { usage } = await send(metering.getMonthlyUsage, { accountId, month: first.billingMonth });
  if (usage === undefined) {
    throw new Error("the service answered without a usage");
  }
  console.log(
    JSON.stringify({
      active: first.serviceStatus?.state === ServiceState.SERVICE_STATE_ACTIVE,
      duplicates: [first.duplicate, again.duplicate],
      accepted: Number(batch.accepted),
      rejections: batch.rejections.map(({ reason, message }) => ({ reason, message })),
      month: usage.month,
      calls: Number(usage.totalCalls),
      charges: usage.charges && `${amountOf(usage.charges)} ${usage.charges.currencyCode}`,
    }),
  );
} catch (error) {
  const { code, details } = error as ServiceError;
  console.error(`error ${code}: ${details ?? error}`);
  process.exitCode = 1;
} finally {
  metering.close();
}
